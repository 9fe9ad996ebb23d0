//! `run.json`: the whole summary, for programs. Times are nanoseconds.

use crate::measure::Summary;

/// A `run.json` that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("not a run.json of this version: {0}; make a new one with this fracas")]
pub struct ReadError(#[from] serde_json::Error);

/// Writes `run.json`.
pub fn json(summary: &Summary) -> Vec<u8> {
    let mut bytes =
        serde_json::to_vec_pretty(summary).expect("a summary has text keys only and goes to memory");
    bytes.push(b'\n');
    bytes
}

/// Reads `run.json`.
///
/// # Errors
/// When the bytes are not one.
pub fn read_json(bytes: &[u8]) -> Result<Summary, ReadError> {
    Ok(serde_json::from_slice(bytes)?)
}
