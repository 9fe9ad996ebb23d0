//! What a run says: each report is a pure function from a [`Summary`](crate::measure::Summary) to bytes.
//! Only [`check_run_dir`] and [`write_run_dir`] touch the disk.

mod diff;
mod fit;
pub(crate) mod format;
mod hgrm;
mod hlog;
mod html;
mod json;
mod run_dir;
mod text;

pub use diff::diff;
pub use format::{bytes, count, latency, length, percent, plural, rate, seconds, utc};
pub use hgrm::hgrm;
pub use hlog::hlog;
pub use html::html;
pub use json::{ReadError, json, read_json};
pub use run_dir::{RunDirError, check_run_dir, write_run_dir};
pub use text::{text, text_within};
