//! What makes a node's load: loadgen's runner, on the ring.

use fracas_loadgen::arrival::Shard;
use fracas_loadgen::scenario::Plan;

use super::load::{Generator, Prepared};

/// Threads of loadgen, one ring each.
pub struct RingGenerator;

impl Generator for RingGenerator {
    fn prepare(&self, _: &Plan, _: Shard) -> Result<Box<dyn Prepared>, String> {
        Err("this build makes no load yet".to_owned())
    }
}
