//! The proxy's figures in Prometheus' text format 0.0.4. Names are stable; proxy, behavior, rule and worker are labels,
//! never a connection.

use std::fmt::Write;

use fracas_dataplane::proxy::{Stats, Times, WorkerStats};

/// Everything that a scrape is told.
pub fn text(stats: &Stats) -> String {
    let mut text = String::new();
    let proxies: Vec<_> =
        stats.proxies.iter().map(|(name, figures)| (escaped(name), figures.counters.named())).collect();
    let names = proxies.first().map_or(&[][..], |(_, counters)| counters);
    for (index, (name, help, _)) in names.iter().enumerate() {
        head(&mut text, &format!("fracas_proxy_{name}_total"), "counter", help.trim());
        for (proxy, counters) in &proxies {
            let _ = writeln!(text, "fracas_proxy_{name}_total{{proxy=\"{proxy}\"}} {}", counters[index].2);
        }
    }
    head(&mut text, "fracas_proxy_injected_total", "counter", "Faults injected.");
    for (proxy, behavior, value) in injected(stats) {
        let _ = writeln!(
            text,
            "fracas_proxy_injected_total{{proxy=\"{}\",behavior=\"{behavior}\"}} {value}",
            escaped(&proxy)
        );
    }
    let late = "fracas_rule_lateness_seconds";
    head(&mut text, late, "summary", "How much later than asked each delay ended.");
    for (proxy, figures) in &stats.proxies {
        for rule in &figures.rules {
            if let Some(lateness) = rule.lateness.as_ref().filter(|lateness| !lateness.is_empty()) {
                let labels = format!("proxy=\"{}\",rule=\"{}\"", escaped(proxy), escaped(&rule.name));
                summary(&mut text, late, &labels, lateness);
            }
        }
    }
    let workers: [(&str, &str, &str, Read); 4] = [
        ("connections", "gauge", "Connections open.", |worker| worker.connections as u64),
        ("held_bytes", "gauge", "Bytes held for delays and slow peers.", |worker| worker.held_bytes as u64),
        ("completion_queue_overflows_total", "counter", "Times completions found no room.", |worker| {
            worker.overflows
        }),
        ("events_lost_total", "counter", "Events that found no room.", |worker| worker.events_lost),
    ];
    for (name, kind, help, read) in workers {
        head(&mut text, &format!("fracas_worker_{name}"), kind, help);
        for worker in &stats.workers {
            let _ = writeln!(text, "fracas_worker_{name}{{worker=\"{}\"}} {}", worker.worker, read(worker));
        }
    }
    let residence = "fracas_worker_residence_seconds";
    let help = "From when bytes were free to go until the kernel of their sink had them.";
    head(&mut text, residence, "summary", help);
    for worker in stats.workers.iter().filter(|worker| !worker.residence.is_empty()) {
        summary(&mut text, residence, &format!("worker=\"{}\"", worker.worker), &worker.residence);
    }
    text
}

/// Reads one figure of a worker.
type Read = fn(&WorkerStats) -> u64;

/// Faults by proxy and behavior, ended rules included.
pub fn injected(stats: &Stats) -> Vec<(String, &'static str, u64)> {
    let mut all: Vec<(String, &'static str, u64)> = Vec::new();
    for (proxy, figures) in &stats.proxies {
        let first = all.len();
        for rule in figures.rules.iter().chain(&figures.retired) {
            match all[first..].iter_mut().find(|(_, behavior, _)| *behavior == rule.behavior) {
                Some((.., sum)) => *sum += rule.injected,
                None => all.push((proxy.clone(), rule.behavior, rule.injected)),
            }
        }
    }
    all
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Times as quantiles in seconds. They are of one process and are never added up: merge the histograms of GetStats
/// for that.
fn summary(text: &mut String, name: &str, labels: &str, times: &Times) {
    for (quantile, parts) in [("0.5", 500), ("0.99", 990), ("0.999", 999)] {
        let seconds = times.quantile(parts, 1000) as f64 / 1e9;
        let _ = writeln!(text, "{name}{{{labels},quantile=\"{quantile}\"}} {seconds:e}");
    }
    let (count, sum) = (times.len(), times.sum() as f64 / 1e9);
    let _ = writeln!(text, "{name}_sum{{{labels}}} {sum:e}\n{name}_count{{{labels}}} {count}");
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use fracas_dataplane::proxy::Recorder;

    use super::*;

    #[test]
    fn a_histogram_is_told_in_seconds() {
        let recorder = Recorder::new();
        (1..=100).for_each(|value| recorder.record(value * 1_000_000));
        let mut text = String::new();
        summary(&mut text, "x_seconds", "rule=\"slow\"", &recorder.read());
        let lines: Vec<(&str, f64)> = text
            .lines()
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(n, v)| (n, v.parse().unwrap()))
            .collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert_eq!(lines[0].0, "x_seconds{rule=\"slow\",quantile=\"0.5\"}");
        assert!((lines[0].1 - 50e-3).abs() < 1e-3 && (lines[1].1 - 99e-3).abs() < 2e-3, "{text}");
        assert!((lines[3].1 - 5.05).abs() < 1e-9, "the sum is exact: {text}");
        assert_eq!(lines[4], ("x_seconds_count{rule=\"slow\"}", 100.0));
    }

    #[test]
    fn a_label_cannot_end_early() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
