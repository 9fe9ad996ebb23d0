//! The data plane's proxies with what the owner of the process allows: where they may lead, and that none leads back to
//! itself. Every proxy is made, changed and removed here, whoever asks: API, command line or config.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fracas_dataplane::destination::{Destinations, Refused};
use fracas_dataplane::proxy::{
    Applied, Handle, Leg, Legs, ProxyError, ProxyInfo, ProxySpec, ProxyUpdate, Replaced,
};

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
            .filter(|spec| legs.get(&spec.name).is_none())
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
            legs.get(name).map_or(Ok(()), |leg| check_way(name, upstream, leg, &legs))
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
            let listen = match legs.get(&spec.name) {
                // It keeps the port that it was given.
                Some(leg) if spec.listen.port() == 0 && leg.listen.ip() == spec.listen.ip() => leg.listen,
                _ => spec.listen,
            };
            wanted.put(&spec.name, Leg { listen, upstream: spec.upstream_addresses.clone() });
        }
        for spec in &specs {
            self.check(&spec.name, &spec.upstream, &spec.upstream_addresses)?;
            if let Some(leg) = wanted.get(&spec.name) {
                check_way(&spec.name, &spec.upstream, leg, &wanted)?;
            }
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
        if let (Some((upstream, addresses)), Some(leg)) = (&update.upstream, legs.get(name)) {
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
        let mut legs = self.legs.lock().unwrap_or_else(PoisonError::into_inner);
        // Names may lead elsewhere since they were looked up.
        for (name, upstream) in self.handle.looked_up() {
            if let Some(leg) = legs.get(&name).filter(|leg| leg.upstream != upstream) {
                let listen = leg.listen;
                legs.put(&name, Leg { listen, upstream });
            }
        }
        legs
    }
}

fn check_way(name: &str, upstream: &str, leg: &Leg, legs: &Legs) -> Result<(), CheckError> {
    match legs.way_back(name, leg) {
        None => Ok(()),
        Some(by) => Err(CheckError::Loop { name: name.to_owned(), upstream: upstream.to_owned(), by }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use fracas_dataplane::proxy::{Dataplane, DataplaneSettings, Upstreams};

    use super::*;

    #[test]
    fn a_loop_by_a_name_that_leads_elsewhere_by_now_is_seen() {
        let where_to: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
        let found = Arc::clone(&where_to);
        let look_up = move |_: &str| Ok(found.lock().unwrap().clone());
        let upstreams = Upstreams { look_up: Arc::new(look_up), ..Upstreams::default() };
        let settings = DataplaneSettings { threads: 1, upstreams, ..DataplaneSettings::default() };
        let dataplane = Dataplane::start(settings).unwrap();
        let checked = Checked::new(dataplane.handle(), Destinations::default());
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let nowhere: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let b = checked.create(ProxySpec::new("b", any, nowhere)).unwrap().spec.listen;
        let a = ProxySpec {
            upstream: "name:80".into(),
            upstream_addresses: Vec::new(),
            resolve: Duration::from_millis(10),
            ..ProxySpec::new("a", any, any)
        };
        let a = checked.create(a).unwrap().spec.listen;
        where_to.lock().unwrap().push(b);
        while checked.handle().get("a").unwrap().spec.upstream_addresses.is_empty() {
            std::thread::yield_now();
        }
        let back = || Some((a.to_string(), vec![a]));
        let error =
            checked.update("b", ProxyUpdate { upstream: back(), ..ProxyUpdate::default() }).unwrap_err();
        assert!(matches!(&error, CheckError::Loop { by, .. } if *by == ["a"]), "{error}");
        let error = checked.create(ProxySpec::new("c", a, a)).unwrap_err();
        assert!(matches!(error, CheckError::Loop { .. }), "{error}");
    }

    #[test]
    fn a_loop_is_told_with_the_way() {
        let by = vec!["b".into(), "c".into()];
        let error = CheckError::Loop { name: "a".into(), upstream: "127.0.0.1:2".into(), by };
        assert_eq!(
            error.to_string(),
            "proxy `a`: upstream 127.0.0.1:2 leads back to the proxy itself, by way of b, c"
        );
    }
}
