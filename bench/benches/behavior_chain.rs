//! What a decision costs the loop that asks for it: rules that miss, rules that draw, rules that act.

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use fracas_dataplane::behavior::{ConnectionFacts, Direction, RuleSet, mix};
use fracas_dataplane::protocol::Protocol;
use fracas_dataplane::protocol::http::RequestFramer;

const REQUEST: &[u8] = b"GET /cart HTTP/1.1\r\nHost: shop.example\r\nAccept: */*\r\n\r\n";

fn decide(c: &mut Criterion) {
    let connection = ConnectionFacts { client: "127.0.0.1:5000".parse().expect("an address"), ordinal: 7 };
    let mut framer = RequestFramer::new();
    framer.advance(REQUEST);
    for mix in ["1:delay", "20:delay,5:error", "100:delay"] {
        let rules = mix::parse(mix, &BTreeMap::new()).expect("a legal mix");
        let compile = |protocol| RuleSet::compile(rules.clone(), protocol, 42, 1).expect("legal rules");
        let http = compile(Protocol::Http);
        let plan = http.on_connection(&connection);
        let mut ordinal = 0;
        c.bench_function(&format!("behavior_chain/exchange {mix}"), |b| {
            b.iter(|| {
                ordinal += 1;
                black_box(http.on_exchange(&connection, plan.active, ordinal, &framer.head(REQUEST)))
            });
        });
        let tcp = compile(Protocol::Tcp);
        let plan = tcp.on_connection(&connection);
        c.bench_function(&format!("behavior_chain/chunk {mix}"), |b| {
            b.iter(|| {
                ordinal += 1;
                black_box(tcp.on_chunk(&connection, plan.active, Direction::Request, ordinal))
            });
        });
    }
}

criterion_group!(benches, decide);
criterion_main!(benches);
