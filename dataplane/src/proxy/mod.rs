//! Stands between downstream and upstream: what carries the bytes, and what may change while they pass.

pub mod leases;
