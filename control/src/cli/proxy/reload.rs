//! SIGHUP: the config file is read again and put in force as one generation, or refused whole.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use fracas_dataplane::config::Config;

use super::plan::{self, Planned, Timelines};
use crate::checked::Checked;
use crate::lookup::Lookups;

/// Loads a config again.
pub(super) struct Reloader {
    pub path: PathBuf,
    /// As it was loaded last.
    pub config: Config,
    pub checked: Arc<Checked>,
    pub lookups: Lookups,
    pub leases: Timelines,
}

impl Reloader {
    /// Reads the file and makes its proxies what it says; those that were made through the API stay as they are. Gives
    /// what was changed, in words.
    ///
    /// # Errors
    /// One line, when anything is wrong; nothing is changed then.
    pub(super) async fn reload(&mut self) -> Result<String, String> {
        let config = Config::load(&self.path).map_err(|error| error.to_string())?;
        if let Some(key) = needs_restart(&self.config, &config) {
            return Err(format!(
                "{}: `{key}` cannot change while it runs; restart the proxy",
                self.path.display()
            ));
        }
        let mut planned = plan::from_config(&config).map_err(|error| error.to_string())?;
        let mut words = plan::look_up(&mut planned, &self.lookups).await;
        let (specs, timelines): (Vec<_>, Vec<_>) = planned
            .into_iter()
            .map(|Planned { spec, timeline }| (spec.clone(), (spec.name, timeline)))
            .unzip();
        let before: BTreeSet<String> = self.config.proxies.iter().map(|proxy| proxy.name.clone()).collect();
        let checked = self.checked.clone();
        // It may wait for a listener that was just shut.
        let replaced = tokio::task::spawn_blocking(move || checked.replace(specs, &before)).await;
        let replaced = replaced.map_err(|_| "the proxy is shutting down".to_owned())?;
        let replaced = replaced.map_err(|error| error.to_string())?;
        let handle = self.checked.handle();
        let old = |name: &str| self.config.proxies.iter().find(|proxy| proxy.name == name);
        for (name, timeline) in timelines {
            let same = old(&name).zip(config.proxies.iter().find(|proxy| proxy.name == name));
            let is_same = same.is_some_and(|(old, new)| old.timeline == new.timeline);
            if is_same && !replaced.created.contains(&name) {
                continue;
            }
            self.leases.end(handle, &name);
            if let Err(error) = self.leases.begin(handle, &name, timeline) {
                words.push(format!("the timeline of `{name}` is not in force: {error}"));
            }
        }
        self.config = config;
        let anew = replaced.created.iter().filter(|name| replaced.deleted.contains(name)).count();
        let counts = [
            (replaced.created.len() - anew, "added"),
            (anew, "made anew"),
            (replaced.applied.proxies.len(), "changed"),
            (replaced.deleted.len() - anew, "removed"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let counts: Vec<String> = counts.map(|(count, what)| format!("{count} {what}")).collect();
        let counts = if counts.is_empty() { "nothing differs".to_owned() } else { counts.join(", ") };
        words.insert(0, format!("generation {}, proxies: {counts}", replaced.applied.generation));
        Ok(words.join("; "))
    }
}

/// The first key that differs and that a running process cannot follow.
fn needs_restart(old: &Config, new: &Config) -> Option<&'static str> {
    [
        ("api", old.api != new.api),
        ("statsd", old.statsd != new.statsd),
        ("seed", old.seed != new.seed),
        ("threads", old.threads != new.threads),
    ]
    .into_iter()
    .find_map(|(key, differs)| differs.then_some(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_change_while_it_runs_is_named() {
        let config = |more: &str| {
            Config::parse(&format!("{more}proxies: [{{listen: 127.0.0.1:1, upstream: 127.0.0.1:2}}]\n"), "f")
                .unwrap()
        };
        for (more, key) in [
            ("", None),
            ("drain: 3s\n", None),
            ("api: 127.0.0.1:9\n", Some("api")),
            ("statsd: 127.0.0.1:9\n", Some("statsd")),
            ("seed: 9\n", Some("seed")),
            ("threads: 9\n", Some("threads")),
        ] {
            assert_eq!(needs_restart(&config(""), &config(more)), key, "{more}");
        }
    }
}
