//! `NodeService`: who can drive load.
