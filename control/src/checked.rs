//! The data plane's proxies with what the owner of the process allows: where they may lead, and that none leads back to
//! itself. Every proxy is made, changed and removed here, whoever asks: API, command line or config.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fracas_dataplane::destination::{Destinations, Refused};
use fracas_dataplane::proxy::{Applied, Handle, ProxyError, ProxyInfo, ProxySpec, ProxyUpdate, Replaced};

use crate::lookup::host_of;

/// Why a proxy is not made or changed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The data plane refuses it.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// It would lead where nothing may be led.
    #[error("proxy `{name}`, upstream {upstream}: {refused}{}", advice(.upstream, .refused))]
    Upstream {
        /// Its name.
        name: String,
        /// As it was given.
        upstream: String,
        /// Which address.
        refused: Refused,
    },
    /// It would lead back to itself.
    #[error("proxy `{name}`: upstream {upstream} leads back to the proxy itself{}", by_way_of(.by))]
    Loop {
        /// Its name.
        name: String,
        /// As it was given.
        upstream: String,
        /// Other proxies on the way.
        by: Vec<String>,
    },
}

fn advice(upstream: &str, refused: &Refused) -> String {
    let allow = match refused {
        Refused::Nowhere(_) => return String::new(),
        Refused::Denied(address) => address.to_string(),
        Refused::NotAllowed(_) => host_of(upstream),
    };
    format!("; if it is meant, start the process with --allow-upstream {allow}")
}

fn by_way_of(by: &[String]) -> String {
    if by.is_empty() { String::new() } else { format!(", by way of {}", by.join(", ")) }
}

/// Where a proxy listens and where it leads.
#[derive(Clone, Debug)]
struct Leg {
    listen: SocketAddr,
    upstream: Vec<SocketAddr>,
}

/// The legs of all proxies, by name and by the port they listen on.
#[derive(Debug, Default)]
struct Legs {
    by_name: HashMap<String, Leg>,
    by_port: HashMap<u16, BTreeSet<String>>,
}

impl Legs {
    fn put(&mut self, name: &str, leg: Leg) {
        self.remove(name);
        self.by_port.entry(leg.listen.port()).or_default().insert(name.to_owned());
        self.by_name.insert(name.to_owned(), leg);
    }

    fn remove(&mut self, name: &str) {
        let Some(leg) = self.by_name.remove(name) else { return };
        if let Some(names) = self.by_port.get_mut(&leg.listen.port()) {
            names.remove(name);
            if names.is_empty() {
                self.by_port.remove(&leg.listen.port());
            }
        }
    }

    /// The other proxies by which what `name` sends comes back to it, if it does: nobody, one, or one after the other.
    fn way_back(&self, name: &str, leg: &Leg, is_ours: &impl Fn(IpAddr) -> bool) -> Option<Vec<String>> {
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

/// The data plane, and what is allowed on it.
pub struct Checked {
    handle: Handle,
    destinations: Destinations,
    legs: Mutex<Legs>,
}

impl Checked {
    /// Lets the proxies of `handle`, which has none yet, lead to `destinations`.
    pub fn new(handle: Handle, destinations: Destinations) -> Checked {
        Checked { handle, destinations, legs: Mutex::default() }
    }

    /// The data plane, for everything that makes, moves and removes no proxy.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Makes a proxy.
    ///
    /// # Errors
    /// When it may not lead there, or the data plane refuses. Nothing is left behind.
    pub fn create(&self, spec: ProxySpec) -> Result<ProxyInfo, CheckError> {
        self.create_all(vec![spec])?.pop().ok_or(CheckError::Proxy(ProxyError::Stopped))
    }

    /// Makes many proxies as one generation.
    ///
    /// # Errors
    /// Those of the first that cannot be made; then none is made, and nothing is left behind.
    pub fn create_all(&self, specs: Vec<ProxySpec>) -> Result<Vec<ProxyInfo>, CheckError> {
        let mut legs = self.legs();
        for spec in &specs {
            self.check(&spec.name, &spec.upstream, &spec.upstream_addresses)?;
        }
        // A name that is taken is the data plane's to refuse; its legs stay.
        let new: Vec<(String, String, Leg)> = specs
            .iter()
            .filter(|spec| !legs.by_name.contains_key(&spec.name))
            .map(|spec| {
                let leg = Leg { listen: spec.listen, upstream: spec.upstream_addresses.clone() };
                (spec.name.clone(), spec.upstream.clone(), leg)
            })
            .collect();
        new.iter().for_each(|(name, _, leg)| legs.put(name, leg.clone()));
        let no_loops = new.iter().try_for_each(|(name, upstream, leg)| check_way(name, upstream, leg, &legs));
        let made = no_loops.and_then(|()| self.handle.create_all(specs).map_err(CheckError::from));
        let made = made.inspect_err(|_| new.iter().for_each(|(name, ..)| legs.remove(name)))?;
        for info in &made {
            let leg = Leg { listen: info.spec.listen, upstream: info.spec.upstream_addresses.clone() };
            legs.put(&info.spec.name, leg);
        }
        // The kernel may have chosen the very port to which one of them leads.
        let chosen = new.iter().filter(|(_, _, leg)| leg.listen.port() == 0);
        let checked = { chosen }.try_for_each(|(name, upstream, _)| {
            check_way(name, upstream, &legs.by_name[name].clone(), &legs)
        });
        if let Err(error) = checked {
            for (name, ..) in &new {
                self.handle.delete(name, None)?;
                legs.remove(name);
            }
            return Err(error);
        }
        Ok(made)
    }

    /// Makes those of `managed` and what `specs` adds to them what `specs` says, as one generation; other proxies stay as
    /// they are.
    ///
    /// # Errors
    /// The first thing that is wrong with any of them; then none is changed.
    pub fn replace(&self, specs: Vec<ProxySpec>, managed: &BTreeSet<String>) -> Result<Replaced, CheckError> {
        let mut legs = self.legs();
        let others = self.handle.list().into_iter().map(|info| info.spec);
        let others: Vec<ProxySpec> = others.filter(|spec| !managed.contains(&spec.name)).collect();
        let mut wanted = Legs::default();
        for spec in others.iter().chain(&specs) {
            let listen = match legs.by_name.get(&spec.name) {
                // It keeps the port that it was given.
                Some(leg) if spec.listen.port() == 0 && leg.listen.ip() == spec.listen.ip() => leg.listen,
                _ => spec.listen,
            };
            wanted.put(&spec.name, Leg { listen, upstream: spec.upstream_addresses.clone() });
        }
        for spec in &specs {
            self.check(&spec.name, &spec.upstream, &spec.upstream_addresses)?;
            check_way(&spec.name, &spec.upstream, &wanted.by_name[&spec.name], &wanted)?;
        }
        let all = others.into_iter().chain(specs).collect();
        let replaced = self.handle.replace_all(all)?;
        *legs = Legs::default();
        for info in self.handle.list() {
            let leg = Leg { listen: info.spec.listen, upstream: info.spec.upstream_addresses };
            legs.put(&info.spec.name, leg);
        }
        Ok(replaced)
    }

    /// Changes a proxy.
    ///
    /// # Errors
    /// When it may not lead there, or the data plane refuses. Nothing is changed.
    pub fn update(&self, name: &str, update: ProxyUpdate) -> Result<(ProxyInfo, Applied), CheckError> {
        let mut legs = self.legs();
        if let (Some((upstream, addresses)), Some(leg)) = (&update.upstream, legs.by_name.get(name)) {
            self.check(name, upstream, addresses)?;
            let leg = Leg { upstream: addresses.clone(), ..leg.clone() };
            check_way(name, upstream, &leg, &legs)?;
        }
        let (info, applied) = self.handle.update(name, update)?;
        let leg = Leg { listen: info.spec.listen, upstream: info.spec.upstream_addresses.clone() };
        legs.put(name, leg);
        Ok((info, applied))
    }

    /// Removes a proxy.
    ///
    /// # Errors
    /// Those of the data plane.
    pub fn delete(&self, name: &str, expected_generation: Option<u64>) -> Result<Applied, ProxyError> {
        let mut legs = self.legs();
        let applied = self.handle.delete(name, expected_generation)?;
        legs.remove(name);
        Ok(applied)
    }

    fn check(&self, name: &str, upstream: &str, addresses: &[SocketAddr]) -> Result<(), CheckError> {
        let checked = self.destinations.check(&host_of(upstream), addresses);
        let because =
            |refused| CheckError::Upstream { name: name.to_owned(), upstream: upstream.to_owned(), refused };
        checked.map_err(because)
    }

    fn legs(&self) -> MutexGuard<'_, Legs> {
        // A panic under the lock is a bug that was reported where it happened; the others go on.
        self.legs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_way(name: &str, upstream: &str, leg: &Leg, legs: &Legs) -> Result<(), CheckError> {
    match legs.way_back(name, leg, &is_of_this_machine) {
        None => Ok(()),
        Some(by) => Err(CheckError::Loop { name: name.to_owned(), upstream: upstream.to_owned(), by }),
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
        legs.way_back(name, new, &is_ours).map(|by| by.join(","))
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
        let by = vec!["b".into(), "c".into()];
        let error = CheckError::Loop { name: "a".into(), upstream: "127.0.0.1:2".into(), by };
        assert_eq!(
            error.to_string(),
            "proxy `a`: upstream 127.0.0.1:2 leads back to the proxy itself, by way of b, c"
        );
    }
}
