//! Whether a proxy leads back to itself, alone or by way of others of this process.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Where a proxy listens and where it leads.
#[derive(Clone, Debug)]
pub struct Leg {
    /// The address it listens on; with port 0 nobody leads there yet.
    pub listen: SocketAddr,
    /// Where it may connect to.
    pub upstream: Vec<SocketAddr>,
}

/// The legs of all proxies, by name and by the port they listen on.
#[derive(Debug, Default)]
pub struct Legs {
    by_name: HashMap<String, Leg>,
    by_port: HashMap<u16, BTreeSet<String>>,
}

impl Legs {
    /// Adds a proxy, or puts it in the place of the one with that name.
    pub fn put(&mut self, name: &str, leg: Leg) {
        self.remove(name);
        self.by_port.entry(leg.listen.port()).or_default().insert(name.to_owned());
        self.by_name.insert(name.to_owned(), leg);
    }

    /// The legs of a proxy.
    pub fn get(&self, name: &str) -> Option<&Leg> {
        self.by_name.get(name)
    }

    /// Forgets a proxy.
    pub fn remove(&mut self, name: &str) {
        let Some(leg) = self.by_name.remove(name) else { return };
        if let Some(names) = self.by_port.get_mut(&leg.listen.port()) {
            names.remove(name);
            if names.is_empty() {
                self.by_port.remove(&leg.listen.port());
            }
        }
    }

    /// The other proxies by which what `name` sends comes back to it, if it does: nobody, one, or one after the other.
    pub fn way_back(&self, name: &str, leg: &Leg) -> Option<Vec<String>> {
        self.way_back_on(name, leg, &is_of_this_machine)
    }

    fn way_back_on(&self, name: &str, leg: &Leg, is_ours: &impl Fn(IpAddr) -> bool) -> Option<Vec<String>> {
        let mut seen: BTreeSet<&str> = BTreeSet::from([name]);
        let mut ways = vec![(leg, Vec::new())];
        while let Some((at, by)) = ways.pop() {
            for address in &at.upstream {
                if reaches(*address, leg.listen, is_ours) {
                    return Some(by);
                }
                for other in self.by_port.get(&address.port()).into_iter().flatten() {
                    let next = &self.by_name[other];
                    if reaches(*address, next.listen, is_ours) && seen.insert(other) {
                        let mut by: Vec<String> = by.clone();
                        by.push(other.clone());
                        ways.push((next, by));
                    }
                }
            }
        }
        None
    }
}

/// Whether a connect to `address` arrives at somebody who listens on `listen`, on this machine.
fn reaches(address: SocketAddr, listen: SocketAddr, is_ours: &impl Fn(IpAddr) -> bool) -> bool {
    if address.port() != listen.port() || listen.port() == 0 {
        return false;
    }
    let (to, at) = (address.ip().to_canonical(), listen.ip().to_canonical());
    // Who connects to the unspecified address gets loopback; who listens on it listens everywhere, in both families.
    match (to.is_unspecified(), at.is_unspecified()) {
        (false, false) => to == at,
        (true, false) => at.is_loopback(),
        (true, true) => true,
        (false, true) => to.is_loopback() || is_ours(to),
    }
}

/// Whether an address is one of this machine's: a socket can be bound to those alone.
fn is_of_this_machine(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leg(listen: &str, upstream: &[&str]) -> Leg {
        Leg {
            listen: listen.parse().unwrap(),
            upstream: upstream.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn back(name: &str, new: &Leg, others: &[(&str, Leg)]) -> Option<String> {
        let mut legs = Legs::default();
        others.iter().for_each(|(name, leg)| legs.put(name, leg.clone()));
        let is_ours = |address: IpAddr| address == IpAddr::from([10, 0, 0, 5]);
        legs.way_back_on(name, new, &is_ours).map(|by| by.join(","))
    }

    #[test]
    fn a_proxy_leads_back_to_itself_however_its_own_address_is_written() {
        for (listen, upstream, loops) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", true),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "127.9.9.9:80", true),
            ("0.0.0.0:80", "10.0.0.5:80", true),
            ("0.0.0.0:80", "10.0.0.6:80", false),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::1]:80", "[::]:80", true),
            ("10.0.0.5:80", "10.0.0.5:80", true),
            ("10.0.0.5:80", "127.0.0.1:80", false),
            ("127.0.0.1:0", "127.0.0.1:80", false),
        ] {
            assert_eq!(back("a", &leg(listen, &[upstream]), &[]).is_some(), loops, "{listen} → {upstream}");
        }
        assert!(
            back("a", &leg("127.0.0.1:80", &["10.9.9.9:1", "127.0.0.1:80"]), &[]).is_some(),
            "any address"
        );
    }

    #[test]
    fn proxies_that_lead_to_each_other_are_followed_to_the_end() {
        let others = [
            ("b", leg("127.0.0.1:2", &["127.0.0.1:3"])),
            ("c", leg("127.0.0.1:3", &["127.0.0.1:1"])),
            ("d", leg("127.0.0.1:4", &["127.0.0.1:5"])),
            // Two that lead to each other are not followed for ever.
            ("e", leg("127.0.0.1:5", &["127.0.0.1:4"])),
        ];
        assert_eq!(back("a", &leg("127.0.0.1:1", &["127.0.0.1:2"]), &others).as_deref(), Some("b,c"));
        assert_eq!(back("a", &leg("127.0.0.1:1", &["127.0.0.1:4"]), &others), None);
        assert_eq!(back("c", &leg("127.0.0.1:3", &["127.0.0.1:9"]), &others), None, "its old way is no way");
    }
}
