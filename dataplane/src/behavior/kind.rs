//! How a behavior is described: one row of the table, from which flags, config, API and docs are made.

use super::KINDS;
use super::options::OptionSpec;

/// Describes one behavior; flags, config, API and docs are generated from it.
#[derive(Debug)]
pub struct Kind {
    /// The name in our words.
    pub name: &'static str,
    /// Names that users of earlier tools know.
    pub aliases: &'static [&'static str],
    /// What it does, in one line.
    pub summary: &'static str,
    /// Its options.
    pub options: &'static [OptionSpec],
    /// Whether it can be used, or only answers that it is not built yet.
    pub built: bool,
    /// What the client of a proxy sees of it.
    pub client: ClientView,
    /// When a change to or from it reaches a connection that is already open.
    pub live_change: LiveChange,
    /// What happens to what is under way when it is taken away.
    pub lifted: &'static str,
}

impl Kind {
    /// The behavior of this name or alias; `-` and `_` are the same.
    pub fn find(name: &str) -> Option<&'static Kind> {
        let name = name.replace('-', "_");
        KINDS.iter().find(|kind| kind.name == name || kind.aliases.contains(&name.as_str()))
    }

    /// The option of this name or alias, with the unit a bare number has under that name (`""`: none).
    pub fn option(&self, name: &str) -> Option<(&'static OptionSpec, &'static str)> {
        let name = name.replace('-', "_");
        let direct = self.options.iter().find(|spec| spec.name == name);
        let aliases =
            || self.options.iter().flat_map(|spec| spec.aliases.iter().map(move |alias| (spec, alias)));
        // A name may be its own alias: then a bare number has the unit it had in the earlier tool.
        let alias = aliases().find(|(_, alias)| alias.0 == name);
        match (direct, alias) {
            (_, Some((spec, alias))) => Some((spec, alias.1)),
            (Some(spec), None) => Some((spec, "")),
            (None, None) => None,
        }
    }
}

/// When a changed rule reaches a connection that is already open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveChange {
    /// On plain bytes.
    pub bytes: When,
    /// Where a protocol is known.
    pub messages: When,
}

/// The first thing on a live connection that a change touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// As soon as the worker has the new rules.
    Now,
    /// The next chunk that is read.
    NextChunk,
    /// The next message that begins.
    NextMessage,
    /// Only connections made later.
    NextConnection,
}

impl When {
    /// The word used in the manual.
    pub fn words(self) -> &'static str {
        match self {
            When::Now => "now",
            When::NextChunk => "next chunk",
            When::NextMessage => "next message",
            When::NextConnection => "next connection",
        }
    }
}

/// What the client of a proxy sees of a behavior: by this a load tells the failures that a rule made from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientView {
    /// How a request that it acts on fails, if it does.
    pub failure: Option<Seen>,
    /// Whether a request that it acts on may take longer than it needs.
    pub holds: Holds,
}

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// By an error of the protocol; on plain bytes by others than were sent.
    Error,
    /// By the end of its connection.
    Cut,
    /// Nothing comes.
    Silence,
}

/// Whether requests are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// None is.
    No,
    /// Each that is held is told of.
    Told,
    /// Told once for a connection, of which any request may be held.
    Untold,
}

impl ClientView {
    pub(super) const NOTHING: ClientView = ClientView { failure: None, holds: Holds::No };
    pub(super) const ERRORS: ClientView = ClientView { failure: Some(Seen::Error), holds: Holds::No };
    pub(super) const CUT: ClientView = ClientView { failure: Some(Seen::Cut), holds: Holds::No };
    pub(super) const SILENCE: ClientView = ClientView { failure: Some(Seen::Silence), holds: Holds::Told };
    pub(super) const HELD: ClientView = ClientView { failure: None, holds: Holds::Told };
    pub(super) const HELD_UNTOLD: ClientView = ClientView { failure: None, holds: Holds::Untold };
}
