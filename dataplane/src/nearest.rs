//! What was probably meant by a name that is not known: for errors that end in `did you mean …?`.

/// Names that a typed one is compared with: a hint must not cost more than what it is about.
const KNOWN_MAX: usize = 1_000;
/// Characters of the typed name that are compared, for the same reason.
const TYPED_CHARS_MAX: usize = 64;

/// The known name nearest to what was typed, when it is near enough to be meant: at most a third of its letters, and one
/// at least, may be wrong. An edit is a letter too many, too few or another one, or two neighbours that changed places;
/// capitals are none.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed: String = typed.chars().take(TYPED_CHARS_MAX).flat_map(char::to_lowercase).collect();
    known
        .into_iter()
        .take(KNOWN_MAX)
        .map(|name| (strsim::osa_distance(&typed, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= name.chars().count().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_only_when_it_is_near() {
        let known = ["delay", "error", "transient", "hang", "throttle"];
        for (typed, expected) in [
            ("dealy", Some("delay")),
            ("Delay", Some("delay")),
            ("DELY", Some("delay")),
            ("throtle", Some("throttle")),
            ("transent", Some("transient")),
            ("hnag", Some("hang")),
            ("hg", None),
            ("banana", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known), expected, "{typed}");
        }
        assert_eq!(nearest("shpo-eu", ["Shop-EU"]), Some("Shop-EU"), "names of proxies may have capitals");
        assert_eq!(nearest("größe", ["grösse"]), Some("grösse"));
        assert_eq!(nearest("x", ["at"]), None);
    }

    #[test]
    fn a_hint_costs_no_more_than_what_it_is_about() {
        let long = "k".repeat(1 << 20);
        assert_eq!(nearest(&long, ["key"]), None);
        let many = std::iter::repeat_n("other", KNOWN_MAX).chain(["name"]);
        assert_eq!(nearest("nmae", many), None);
    }
}
