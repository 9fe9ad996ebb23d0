//! `AgentService`: the streams that agents and proxies dial out with.
