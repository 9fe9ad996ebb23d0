//! The gRPC door: one file per service; proto → domain → one call → proto. Decides nothing.

mod agent_service;
mod bounds;
pub mod control_plane;
mod node_service;
mod page;
pub mod proxy_answers;
mod proxy_proto;
pub mod proxy_server;
pub mod proxy_service;
mod proxy_watch;
pub mod refusal;
mod remembered;
mod run_service;
mod served;
pub mod server;
pub mod session_proto;
pub mod wall_clock;
