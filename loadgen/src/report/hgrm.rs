//! `*.hgrm`: HdrHistogram's percentile table, in milliseconds, as its plotters read it
//! (`AbstractHistogram.outputPercentileDistribution`, HdrHistogram 2.x).

use std::fmt::Write;

use crate::measure::{Distribution, SIGNIFICANT_DIGITS};

/// Milliseconds: what wrk2 writes and the plotters put on the axis.
const NS_PER_UNIT: f64 = 1e6;
/// The reference tools' own number of steps per halving of the distance to 100 %.
const TICKS_PER_HALF: u32 = 5;

/// Writes the table of one series.
pub fn hgrm(distribution: &Distribution) -> Vec<u8> {
    let mut out =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let digits = usize::from(SIGNIFICANT_DIGITS);
    let unit = |ns: f64| ns / NS_PER_UNIT;
    for row in distribution.percentile_rows(TICKS_PER_HALF) {
        let value = unit(row.value_ns as f64);
        let _ = write!(out, "{value:12.digits$} {:2.12} {:10}", row.quantile, row.total_count);
        // Java leaves the fourth column of the last row out, and plotters skip that row.
        let _ = match row.one_in {
            Some(one_in) => writeln!(out, " {one_in:14.2}"),
            None => writeln!(out),
        };
    }
    let hdr = distribution.to_hdr();
    let (mean, deviation) = (unit(distribution.mean()), unit(distribution.standard_deviation()));
    let _ = writeln!(out, "#[Mean    = {mean:12.digits$}, StdDeviation   = {deviation:12.digits$}]");
    let max = unit(distribution.max() as f64);
    let _ = writeln!(out, "#[Max     = {max:12.digits$}, Total count    = {:12}]", distribution.count());
    let _ = writeln!(out, "#[Buckets = {:12}, SubBuckets     = {:12}]", hdr.buckets(), 2048);
    out.into_bytes()
}
