//! Moves bytes and breaks them on purpose: client → listener → connection → pipe → behaviors → upstream.

pub mod address;
pub mod behavior;
pub mod clock;
pub mod config;
pub mod destination;
pub mod origin;
pub mod protocol;
pub mod proxy;
pub mod ring;
pub mod rng;
mod short_queue;
pub mod timers;
