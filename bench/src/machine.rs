//! What the figures were taken on, and when.

use std::fs;

/// The facts that a reader needs to judge a figure.
#[derive(Debug)]
pub struct Machine {
    cpu: String,
    cpus: usize,
    kernel: String,
    congestion_control: String,
    load_average: String,
}

impl Machine {
    /// Reads them; what cannot be read is named `unknown`.
    pub fn read() -> Machine {
        let cpuinfo = text("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Machine {
            cpu: model.map_or("unknown CPU".to_owned(), |(_, model)| model.trim().to_owned()),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: text("/proc/sys/kernel/osrelease"),
            congestion_control: text("/proc/sys/net/ipv4/tcp_congestion_control"),
            load_average: text("/proc/loadavg"),
        }
    }

    /// A name for a directory: `amd-epyc-2cpu`.
    pub fn slug(&self) -> String {
        let words = self.cpu.to_lowercase();
        let words: Vec<&str> =
            words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
        format!("{}-{}cpu", words.join("-"), self.cpus)
    }

    /// The facts as a Markdown list.
    pub fn markdown(&self) -> String {
        let Machine { cpu, cpus, kernel, congestion_control, load_average } = self;
        format!(
            "- CPU: {cpu}, {cpus} logical\n- kernel: {kernel}\n- congestion control: {congestion_control} for \
             every socket of the session\n- load average before: {load_average}\n"
        )
    }
}

/// Today in UTC: `2026-11-24`.
#[expect(clippy::disallowed_methods, reason = "the date is a label on a report")]
pub fn today() -> String {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    date(since_1970.as_secs() / 86_400)
}

/// Days since 1970-01-01 → the civil date, counted in years of March to February so that the leap day is last
/// (Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`).
fn date(days: u64) -> String {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

fn text(file: &str) -> String {
    fs::read_to_string(file).map_or("unknown".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates_over_leap_days_and_centuries() {
        for (days, expected) in
            [(0, "1970-01-01"), (11_016, "2000-02-29"), (11_017, "2000-03-01"), (20_781, "2026-11-24")]
        {
            assert_eq!(date(days), expected);
        }
    }

    #[test]
    fn a_machine_has_a_name_fit_for_a_directory() {
        let machine = Machine { cpu: "AMD EPYC (Zen 4) @ 3.1GHz".into(), cpus: 2, ..Machine::read() };
        assert_eq!(machine.slug(), "amd-epyc-zen-4-3-1ghz-2cpu");
    }
}
