//! Objectives against what was measured.

use super::histogram::Distribution;
use super::interval::Counts;
use super::summary::{Causes, SloResult};
use crate::scenario::{Cause, Metric, Replies, SeriesName, Slo};

/// What objectives are about.
pub(super) struct Figures<'a> {
    pub all: &'a [Distribution; 3],
    /// Response and service of good replies.
    pub good: &'a [Distribution; 2],
    pub counts: &'a Counts,
    pub causes: &'a Causes,
    pub ok_per_second: f64,
}

impl Figures<'_> {
    fn series(&self, name: SeriesName, replies: Replies) -> &Distribution {
        match (replies, name) {
            (Replies::Ok, SeriesName::Response) => &self.good[0],
            (Replies::Ok, SeriesName::Service) => &self.good[1],
            _ => &self.all[name as usize],
        }
    }

    /// Whether an objective was kept, and what it is about in words.
    pub fn evaluate(&self, slo: &Slo) -> SloResult {
        // A latency objective without a single value is not kept.
        let of_values = |values: &Distribution, value: u64| (values.count() > 0).then_some(value as f64);
        let actual = match slo.metric {
            Metric::Percentile(name, replies, quantile) => {
                let values = self.series(name, replies);
                of_values(values, values.quantile(quantile))
            }
            Metric::Max(name, replies) => {
                let values = self.series(name, replies);
                of_values(values, values.max())
            }
            Metric::ErrorRatio(cause) => return self.evaluate_errors(slo, cause),
            Metric::RatePerSecond => Some(self.ok_per_second),
        };
        let text = actual.map_or("no data".to_owned(), |actual| slo.format(actual));
        SloResult {
            slo: slo.to_string(),
            passed: actual.is_some_and(|actual| slo.holds(actual)),
            actual: text,
        }
    }

    fn evaluate_errors(&self, slo: &Slo, cause: Cause) -> SloResult {
        let Counts { planned, error, timeout, censored, dropped, .. } = *self.counts;
        let all = error + timeout + censored + dropped;
        let ratio = |count: u64| count as f64 / planned.max(1) as f64;
        // From the least to the most that it can be: the same when it is known.
        let Causes { unknown, own, .. } = *self.causes;
        // What the generator made time out itself is known always, and neither natural nor injected.
        let others = all - own;
        let (least, most) = match (cause, self.causes.injected) {
            (Cause::Any, _) => (all, all),
            (Cause::Natural, Some(injected)) => (others - injected - unknown, others - injected),
            (Cause::Injected, Some(injected)) => (injected, injected + unknown),
            // What is never sent or never answered is no injected failure.
            (Cause::Natural, None) => (censored + dropped, others),
            (Cause::Injected, None) => (0, error + timeout - own),
        };
        let (least, most) = (ratio(least), ratio(most));
        let actual = match &self.causes.unknown_because {
            _ if planned == 0 => "no data".to_owned(),
            Some(why) if least != most => {
                format!("{} to {}, not known: {why}", slo.format(least), slo.format(most))
            }
            _ => slo.format(most),
        };
        // What is not known is taken at its worst.
        let passed = planned > 0 && slo.holds(least) && slo.holds(most);
        SloResult { slo: slo.to_string(), passed, actual }
    }
}
