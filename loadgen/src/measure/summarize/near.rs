//! Which tenths of a second a summary keeps: those around fault windows and around stalls of the generator.

use std::collections::BTreeSet;

use crate::measure::faults::FaultWindow;
use crate::measure::fine::{Longest, TENTH_NS, TENTHS, Tenth};
use crate::measure::interval::Timeline;
use crate::measure::quantile::Quantile;
use crate::measure::summary::TenthSummary;
use crate::measure::verdict::thresholds::STALL_FROM_NS;

/// Tenths before and after a window that the chart shows.
const TENTHS_AROUND: u64 = 30;
/// Tenths before and after a stall of the generator that the chart shows.
const TENTHS_AROUND_STALL: u64 = 10;
/// Tenths that a summary keeps: five minutes around windows and stalls.
const TENTHS_MAX: usize = 3_000;

pub(super) fn tenths_around(timeline: &Timeline, windows: &[FaultWindow]) -> Vec<TenthSummary> {
    let of_window = |window: &FaultWindow| {
        let recovery = window.around.as_ref().and_then(|around| around.recovery_ns).unwrap_or(0);
        let from = (window.start_ns / TENTH_NS).saturating_sub(TENTHS_AROUND);
        (from, (window.end_ns.saturating_add(recovery)).div_ceil(TENTH_NS) + TENTHS_AROUND)
    };
    let of_stall = |(number, tenth): (u64, &Tenth)| {
        let stall_ns = tenth.longest[Longest::Stall as usize];
        let from = number.saturating_sub(TENTHS_AROUND_STALL);
        (stall_ns >= STALL_FROM_NS)
            .then(|| (from, number + stall_ns.div_ceil(TENTH_NS) + TENTHS_AROUND_STALL))
    };
    // Whole seconds: a chart has either a second or its tenths.
    let second = |tenth: u64| tenth / TENTHS as u64;
    let last = timeline.intervals().last().map_or(0, |interval| u64::from(interval.second));
    let near = windows.iter().map(of_window).chain(timeline.tenths().filter_map(of_stall));
    let near: BTreeSet<u64> = near.flat_map(|(from, to)| second(from)..=second(to).min(last)).collect();
    let is_near = |tenth: u64| near.contains(&second(tenth));
    let near = timeline.tenths().filter(|(number, _)| is_near(*number)).take(TENTHS_MAX);
    near.map(|(number, tenth)| {
        let response = tenth.response();
        TenthSummary {
            tenth: number,
            planned: tenth.planned,
            ok: tenth.ok,
            failed: tenth.failed,
            samples: response.count(),
            p50: response.quantile(Quantile::P50),
            p99: response.quantile(Quantile::P99),
            max: response.max(),
            lag_max: tenth.longest[Longest::Lag as usize],
            own_max: tenth.longest[Longest::Own as usize],
            own_stall_max: tenth.longest[Longest::Stall as usize],
        }
    })
    .collect()
}
