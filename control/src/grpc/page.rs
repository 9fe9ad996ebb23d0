//! Pages of lists that are sorted by a key. A token names its list, and is refused by every other.

use tonic::{Code, Status};

use super::refusal::refuse;

const SIZE_DEFAULT: usize = 100;
const SIZE_MAX: usize = 1000;

/// How many are asked for → how many are given: 0 is 100, at most 1,000.
pub fn size(asked: u32) -> usize {
    if asked == 0 { SIZE_DEFAULT } else { (asked as usize).min(SIZE_MAX) }
}

/// The token of what follows `key` in `list`.
pub fn token_after(list: &str, key: &str) -> String {
    format!("{list}/after:{key}")
}

/// The key that a token of `list` stands for; none for the first page.
///
/// # Errors
/// When the token is of another list, or none at all.
pub fn key_of<'a>(list: &str, token: &'a str) -> Result<Option<&'a str>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let of_list = token.strip_prefix(list).and_then(|rest| rest.strip_prefix("/after:"));
    of_list.map(Some).ok_or_else(|| {
        refuse(
            Code::InvalidArgument,
            "INVALID_PAGE_TOKEN",
            "page_token is not from this list; ask for the first page again",
            &[("page_token", token.chars().take(200).collect())],
        )
    })
}

/// One page of `items`, which are in the order of `key`, and the token of the next page; `list` names the list and what
/// it is limited to.
///
/// # Errors
/// When the token is not from such a list.
pub fn page<T>(
    list: &str,
    items: Vec<T>,
    key: impl Fn(&T) -> String,
    asked: u32,
    token: &str,
) -> Result<(Vec<T>, String), Status> {
    let after = key_of(list, token)?;
    let mut rest =
        items.into_iter().skip_while(|item| after.is_some_and(|after| key(item).as_str() <= after));
    let page: Vec<T> = rest.by_ref().take(size(asked)).collect();
    let more = rest.next().is_some();
    let next = page.last().filter(|_| more).map(|last| token_after(list, &key(last)));
    Ok((page, next.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_the_list_once() {
        let items = ["a", "b", "c", "d", "e"];
        let page =
            |size, token: &str| page("letters", items.to_vec(), |item| (*item).to_owned(), size, token);
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let (found, next) = page(2, &token).unwrap();
            seen.extend(found);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(seen, items);
        assert_eq!(page(5, "").unwrap().1, "");
        for foreign in ["x", "after:a", "a", "numbers/after:a", "letters/after", "lettersx/after:a"] {
            assert!(page(5, foreign).is_err(), "{foreign}");
        }
        assert_eq!(page(1, &token_after("letters", "c")).unwrap().0, ["d"]);
    }
}
