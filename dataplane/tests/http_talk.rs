//! What the fuzz target `proxy` does with HTTP, by seeds: see `support/http_talk.rs`.

#[path = "support/http_talk.rs"]
mod http_talk;
#[path = "support/http_world.rs"]
mod http_world;

use fracas_dataplane::ring::simulated::seeds;
use fracas_dataplane::rng::Rng;

/// Says with which seed a talk failed; the network prints another one, which the talk drew.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to run it again: SEED={} cargo test --test http_talk", self.0);
        }
    }
}

#[test]
fn simulation_of_http_under_random_flips_stays_in_order_bounded_and_alive() {
    for seed in seeds(150) {
        let _told = Told(seed);
        let mut rng = Rng::stream(seed, &[300]);
        let length = 50 + rng.below(2000);
        let data: Vec<u8> = (0..length).map(|_| rng.below(256) as u8).collect();
        http_talk::talk(&data);
    }
}
