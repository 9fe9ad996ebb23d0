//! Tables and properties of both framers together.

use proptest::prelude::*;

use super::*;

/// What a framer said, independent of how the bytes were cut: body pieces are joined.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Head(Vec<u8>),
    Interim(Vec<u8>),
    Body(Vec<u8>),
    Surplus(Vec<u8>),
    End,
    AwaitReply,
    Raw(Vec<u8>),
    Invalid,
}

fn join(said: &mut Vec<Said>, bytes: &[u8], make: fn(Vec<u8>) -> Said) {
    match (said.last_mut(), make(Vec::new())) {
        (Some(Said::Body(joined)), Said::Body(_))
        | (Some(Said::Surplus(joined)), Said::Surplus(_))
        | (Some(Said::Raw(joined)), Said::Raw(_)) => joined.extend_from_slice(bytes),
        _ if bytes.is_empty() => {}
        _ => said.push(make(bytes.to_vec())),
    }
}

/// Drives a framer as the proxy does: each slice until it is used up.
fn drive_requests(framer: &mut RequestFramer, pieces: &[&[u8]]) -> Vec<Said> {
    let mut said = Vec::new();
    for piece in pieces {
        let mut rest: &[u8] = piece;
        loop {
            let step = framer.advance(rest);
            let (used, after) = rest.split_at(step.used);
            match step.event {
                Event::NeedMore => {
                    assert!(after.is_empty(), "NeedMore uses all");
                    break;
                }
                Event::Head => {
                    let head = framer.head(rest).bytes().to_vec();
                    let taken = framer.take_head_bytes().unwrap_or_else(|| used.to_vec());
                    assert_eq!(taken, head, "what is forwarded is the head");
                    said.push(Said::Head(head));
                }
                Event::Body => join(&mut said, used, Said::Body),
                Event::End => {
                    join(&mut said, used, Said::Body);
                    said.push(Said::End);
                }
                Event::AwaitReply => {
                    said.push(Said::AwaitReply);
                    return said;
                }
                Event::Raw => {
                    assert!(after.is_empty(), "Raw uses all");
                    join(&mut said, used, Said::Raw);
                    break;
                }
                Event::Invalid(_) => {
                    let again = framer.advance(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").event;
                    assert_eq!(again, step.event, "it stays invalid");
                    said.push(Said::Invalid);
                    return said;
                }
                Event::HeadPart | Event::Interim | Event::Surplus => panic!("requests have none"),
            }
            rest = after;
        }
    }
    said
}

/// The same for replies; what came of a head that has not ended stands for itself.
fn drive_replies(framer: &mut ReplyFramer, pieces: &[&[u8]]) -> Vec<Said> {
    let (mut said, mut head) = (Vec::new(), Vec::new());
    for piece in pieces {
        let mut rest: &[u8] = piece;
        loop {
            let step = framer.advance(rest);
            let (used, after) = rest.split_at(step.used);
            match step.event {
                Event::NeedMore => {
                    assert!(after.is_empty(), "NeedMore uses all");
                    break;
                }
                Event::HeadPart => {
                    assert!(after.is_empty(), "a part of a head uses all");
                    head.extend_from_slice(used);
                }
                Event::Head | Event::Interim => {
                    head.extend_from_slice(used);
                    let is_last = step.event == Event::Head;
                    let make = if is_last { Said::Head } else { Said::Interim };
                    said.push(make(std::mem::take(&mut head)));
                }
                Event::Body => join(&mut said, used, Said::Body),
                Event::Surplus => {
                    // What seemed to begin a head was the beginning of this.
                    head.extend_from_slice(used);
                    join(&mut said, &std::mem::take(&mut head), Said::Surplus);
                }
                Event::End => {
                    join(&mut said, used, Said::Body);
                    said.push(Said::End);
                }
                Event::Raw => {
                    assert!(after.is_empty(), "Raw uses all");
                    join(&mut said, used, Said::Raw);
                    break;
                }
                Event::Invalid(_) => {
                    let again = framer.advance(b"HTTP/1.1 200 OK\r\n\r\n").event;
                    assert_eq!(again, step.event, "it stays invalid");
                    said.push(Said::Invalid);
                    return said;
                }
                Event::AwaitReply => panic!("replies have none"),
            }
            rest = after;
        }
    }
    said
}

fn requests(pieces: &[&[u8]]) -> Vec<Said> {
    drive_requests(&mut RequestFramer::new(), pieces)
}

fn replies(asked: &[Asked], pieces: &[&[u8]]) -> Vec<Said> {
    let mut framer = ReplyFramer::new();
    asked.iter().for_each(|asked| framer.expect(*asked));
    drive_replies(&mut framer, pieces)
}

fn head(text: &str) -> Said {
    Said::Head(text.as_bytes().to_vec())
}

fn body(text: &str) -> Said {
    Said::Body(text.as_bytes().to_vec())
}

/// Cuts `bytes` at the given places.
fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|at| at % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

#[test]
fn pipelined_requests_end_where_they_say_at_any_cut() {
    let get = "GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n";
    let post = "POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n";
    let chunked = "PUT /c HTTP/1.1\r\nHost: x\r\ntransfer-encoding: gzip, Chunked\r\n\r\n";
    let chunks = "3;e=1\r\nabc\r\n0\r\nSum: 1\r\n\r\n";
    let all = format!("{get}{post}12345\r\n{chunked}{chunks}{get}");
    let expected = vec![
        head(get),
        Said::End,
        head(post),
        body("12345"),
        Said::End,
        // An empty line before a request is passed on with it (RFC 9112 §2.2).
        head(&format!("\r\n{chunked}")),
        body(chunks),
        Said::End,
        head(get),
        Said::End,
    ];
    let all = all.as_bytes();
    assert_eq!(requests(&[all]), expected);
    for at in 0..all.len() {
        assert_eq!(requests(&[&all[..at], &all[at..]]), expected, "cut at {at}");
    }
    assert_eq!(requests(&all.chunks(1).collect::<Vec<_>>()), expected, "byte by byte");
}

#[test]
fn a_request_head_tells_its_parts() {
    let slice = b"POST http://shop.example/cart/7?x=1#f HTTP/1.1\r\nHost: shop.example\r\nX-A:  1 \r\nx-a: 2\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\nok";
    let mut framer = RequestFramer::new();
    let step = framer.advance(slice);
    assert_eq!((step.event, step.used), (Event::Head, slice.len() - 2));
    let head = framer.head(slice);
    assert_eq!((head.method(), head.path(), head.version()), ("POST", "/cart/7", 1));
    assert_eq!(head.target(), "http://shop.example/cart/7?x=1#f");
    assert_eq!(head.header("x-A"), Some(&b"1"[..]));
    assert_eq!(head.headers().count(), 5);
    assert!(head.expects_continue() && head.keep_alive());
    assert_eq!(framer.take_head_bytes(), None, "it lay inside the slice");
}

#[test]
fn a_head_in_pieces_is_held_back_and_given_whole() {
    let mut framer = RequestFramer::new();
    assert_eq!(framer.advance(b"GET / HT"), Step::new(8, Event::NeedMore));
    assert_eq!((framer.held_bytes(), framer.take_head_bytes()), (8, None));
    let rest = b"TP/1.1\r\nHost: x\r\nA: b\r\n\r\nGET /next";
    let step = framer.advance(rest);
    assert_eq!((step.event, step.used), (Event::Head, 25));
    assert_eq!(framer.head(rest).header("a"), Some(&b"b"[..]));
    assert_eq!(framer.take_head_bytes().as_deref(), Some(&b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n"[..]));
    assert_eq!(framer.advance(&rest[25..]), Step::new(0, Event::End));
    assert_eq!(framer.advance(&rest[25..]), Step::new(9, Event::NeedMore));
}

#[test]
fn requests_that_readers_could_frame_differently_are_refused() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: \r\n",
        "Content-Length: 9223372036854775808\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length : 5\r\n",
        " Content-Length: 5\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked,\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding\r\n",
        "A: b\r\n folded\r\n",
        "A: b\nContent-Length: 5\r\n",
        "A: b\rContent-Length: 5\r\n",
        "A: b\0\r\n",
        "A: b\r\n\n",
        "A\u{e9}: b\r\n",
        ": b\r\n",
        "A\t: b\r\n",
        "A: b\r\n\tfolded\r\n",
        "A: b\x7f\r\n",
        "A: b\r\r\n",
        "Content-Length: 5;\r\n",
        "Content-Length: \x0b5\r\n",
        "Content-Length: 5.0\r\n",
        "Content-Length: 5\r\n 0\r\n",
        "Content-Length: 0\r\nContent-Length: \r\n",
        "Content-Length: 1\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: \r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked;x=y\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked\r\n , identity\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Host: x\r\n",
        "Host: y\r\n",
        "host:\r\n",
    ] {
        let text = format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        assert_eq!(requests(&[text.as_bytes()]), [Said::Invalid], "{fields:?}");
        let bytewise: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(requests(&bytewise), [Said::Invalid], "{fields:?} byte by byte");
    }
    for text in [
        "GET / HTTP/1.1\nHost: x\r\n\r\n",
        "\nGET / HTTP/1.1\r\n\r\n",
        "\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x,\r\n y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: http://x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x:80:81\r\n\r\n",
        "GET / HTTP/1.1\r\nX: y\r\n\r\n",
        "GET http://y/ HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET x HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: /\r\n\r\n",
        "GET / HTTP/1.2\r\nHost: x\r\n\r\n",
        "GET / http/1.1\r\nHost: x\r\n\r\n",
        "GET /\tHTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /\r HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: x\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /\u{e9} HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /\r\n\r\n",
        "\x16\x03\x01\x02\x00",
    ] {
        assert_eq!(requests(&[text.as_bytes()]), [Said::Invalid], "{text:?}");
        let bytewise: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(requests(&bytewise), [Said::Invalid], "{text:?} byte by byte");
    }
    for text in [
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHOST: [::1]:80 \r\n\r\n",
        "GET http://x/ HTTP/1.1\r\nHost: X:80\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        assert_eq!(requests(&[text.as_bytes()]), [head(text), Said::End], "{text:?}");
    }
    // Repeated and equal is not ambiguous.
    let same = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n";
    assert_eq!(requests(&[same.as_bytes(), b"x"]), [head(same), body("x"), Said::End]);
}

#[test]
fn heads_are_bounded_in_bytes_and_fields() {
    let with_fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert_eq!(
        requests(&[with_fields(HEADERS_MAX - 1).as_bytes()]),
        [head(&with_fields(HEADERS_MAX - 1)), Said::End]
    );
    assert_eq!(requests(&[with_fields(HEADERS_MAX).as_bytes()]), [Said::Invalid]);
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
    assert_eq!(requests(&[long.as_bytes()]), [Said::Invalid]);
    assert_eq!(requests(&long.as_bytes().chunks(999).collect::<Vec<_>>()), [Said::Invalid]);
    let mut framer = RequestFramer::new();
    let endless = b"x".repeat(4096);
    framer.advance(b"GET /");
    let refused_at = (0..100).find(|_| matches!(framer.advance(&endless).event, Event::Invalid(_)));
    assert_eq!(refused_at, Some(15), "64 KiB and not more is held");
}

#[test]
fn what_follows_connect_and_upgrade_waits_for_the_reply() {
    for text in [
        "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
        "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let after = b"\x81\x05hello";
        let mut framer = RequestFramer::new();
        let all = [text.as_bytes(), after].concat();
        let said = drive_requests(&mut framer, &[&all[..]]);
        assert_eq!(said, [head(text), Said::End, Said::AwaitReply]);
        assert!(framer.is_whole() && framer.awaits_reply() && !framer.is_idle());
        framer.switch();
        assert_eq!(framer.advance(after), Step::new(after.len(), Event::Raw));

        let mut framer = RequestFramer::new();
        assert_eq!(drive_requests(&mut framer, &[text.as_bytes()]).last(), Some(&Said::AwaitReply));
        framer.decline();
        let next = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(drive_requests(&mut framer, &[next.as_bytes()]), [head(next), Said::End]);
    }
}

#[test]
fn a_switch_that_is_declined_before_the_request_ends_is_no_switch() {
    let upgrade = "POST / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\n";
    let mut framer = RequestFramer::new();
    assert_eq!(drive_requests(&mut framer, &[upgrade.as_bytes(), b"12"]), [head(upgrade), body("12")]);
    assert!(!framer.is_whole());
    // The reply came early, or was made by a rule.
    framer.decline();
    let next = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let rest = format!("345{next}");
    assert_eq!(
        drive_requests(&mut framer, &[rest.as_bytes()]),
        [body("345"), Said::End, head(next), Said::End]
    );
    // It switched early: what is left of the body is raw like all that follows.
    let mut framer = RequestFramer::new();
    drive_requests(&mut framer, &[upgrade.as_bytes(), b"12"]);
    framer.switch();
    assert_eq!(framer.advance(b"345 tunnel"), Step::new(10, Event::Raw));
}

#[test]
fn replies_end_as_their_requests_and_heads_say() {
    let get = Asked::method("GET");
    let upgrade = Asked { upgrade: true, ..get };
    for (asked, reply_head, rest, expected) in [
        (get, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "ok", vec![body("ok"), Said::End]),
        (get, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", vec![Said::End]),
        (
            get,
            "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n",
            "0\r\n\r\n",
            vec![body("0\r\n\r\n"), Said::End],
        ),
        (get, "HTTP/1.1 204 No Content\r\n\r\n", "", vec![Said::End]),
        (get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "", vec![Said::End]),
        (get, "HTTP/1.0 200 OK\r\n\r\n", "until close", vec![body("until close")]),
        (Asked::method("HEAD"), "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "", vec![Said::End]),
        (Asked::method("CONNECT"), "HTTP/1.1 200 OK\r\n\r\n", "tls", vec![Said::Raw(b"tls".to_vec())]),
        (
            Asked::method("CONNECT"),
            "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\n",
            "no",
            vec![body("no"), Said::End],
        ),
        (upgrade, "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", "raw", vec![Said::Raw(b"raw".to_vec())]),
        (upgrade, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "ok", vec![body("ok"), Said::End]),
    ] {
        let all = format!("{reply_head}{rest}");
        let expected: Vec<Said> = [head(reply_head)].into_iter().chain(expected).collect();
        assert_eq!(replies(&[asked], &[all.as_bytes()]), expected, "{reply_head:?}");
        let bytewise: Vec<&[u8]> = all.as_bytes().chunks(1).collect();
        assert_eq!(replies(&[asked], &bytewise), expected, "{reply_head:?} byte by byte");
    }
}

#[test]
fn interim_replies_do_not_answer_the_request() {
    let (interim, last) = ("HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
    let all = format!("{interim}HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n{last}ok");
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
    let expected =
        vec![Said::Interim(interim.into()), Said::Interim(hints.into()), head(last), body("ok"), Said::End];
    for at in 0..all.len() {
        let (a, b) = all.as_bytes().split_at(at);
        assert_eq!(replies(&[Asked::method("GET")], &[a, b]), expected, "cut at {at}");
    }
}

#[test]
fn replies_that_clients_would_not_agree_about_are_doubt() {
    for text in [
        "HTTP/1.1 101 Switching\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 099 Low\r\n\r\n",
        "hello\n",
    ] {
        assert_eq!(replies(&[Asked::method("GET")], &[text.as_bytes()]), [Said::Invalid], "{text:?}");
    }
}

#[test]
fn a_body_that_must_not_be_there_does_not_break_the_next_reply() {
    let next = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let after = || [head("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"), body("ok"), Said::End];
    let asked = [Asked::method("HEAD"), Asked::method("GET")];
    for (first, extra) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "hello"),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "HELLO"),
        ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        // It stands in the same chunk: handed on with its reply.
        let all = format!("{first}{extra}{next}");
        let expected: Vec<Said> = [head(first), body(extra), Said::End].into_iter().chain(after()).collect();
        assert_eq!(replies(&asked, &[all.as_bytes()]), expected);
        // It comes later: the reply had ended.
        let surplus = Said::Surplus(extra.as_bytes().to_vec());
        let expected: Vec<Said> = [head(first), Said::End, surplus].into_iter().chain(after()).collect();
        assert_eq!(replies(&asked, &[first.as_bytes(), extra.as_bytes(), next.as_bytes()]), expected);
        assert_eq!(replies(&asked, &[first.as_bytes(), format!("{extra}{next}").as_bytes()]), expected);
        // It does not come, as it should be.
        let expected: Vec<Said> = [head(first), Said::End].into_iter().chain(after()).collect();
        assert_eq!(replies(&asked, &[format!("{first}{next}").as_bytes()]), expected);
        assert_eq!(replies(&asked, &[first.as_bytes(), next.as_bytes()]), expected);
    }
    // More than was announced is nobody's.
    let first = "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n";
    assert_eq!(
        replies(&asked, &[first.as_bytes(), b"hello\n"]),
        [head(first), Said::End, Said::Surplus(b"he".to_vec()), Said::Invalid]
    );
}

/// What of a reply must not depend on how it is cut: all but whose a body is that must not be there (the last bytes of a
/// short one may be told with the head behind it), and how much of a body is told before what is wrong in it.
fn outcome(said: Vec<Said>) -> Vec<Said> {
    let is_framing = |said: &Said| !matches!(said, Said::Body(_) | Said::Surplus(_));
    let from_status_line = |bytes: Vec<u8>| {
        let is_beginning = |five: &[u8]| five.eq_ignore_ascii_case(b"HTTP/");
        let at = bytes.windows(5).rposition(is_beginning).unwrap_or(0);
        bytes[at..].to_vec()
    };
    let from_status_line = |said| match said {
        Said::Head(bytes) => Said::Head(from_status_line(bytes)),
        Said::Interim(bytes) => Said::Interim(from_status_line(bytes)),
        other => other,
    };
    said.into_iter().filter(is_framing).map(from_status_line).collect()
}

#[test]
fn replies_are_framed_alike_wherever_they_are_cut() {
    let ok = |fields: &str, rest: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n{rest}");
    let (blanks, word) = (" ".repeat(1500), "x".repeat(1500));
    let (many, long) = (" ".repeat(20_000), "x".repeat(20_000));
    let next = ok("Content-Length: 2\r\n", "ok");
    let get = [Asked::method("GET"), Asked::method("GET")];
    let head = [Asked::method("HEAD"), Asked::method("GET")];
    let cases = [
        // Longer than what was once looked at of a line in pieces.
        (get, ok(&format!("Content-Length:{blanks}2\r\n"), "ok")),
        (get, ok(&format!("Content-Length{blanks}: 2\r\n"), "ok")),
        (get, ok(&format!("Transfer-Encoding: {word}, chunked\r\n"), "2\r\nok\r\n0\r\n\r\n")),
        (get, ok(&format!("Transfer-Encoding:\r\n{blanks}chunked\r\n"), "2\r\nok\r\n0\r\n\r\n")),
        (get, ok(&format!("Connection: {word}, close\r\nContent-Length: 2\r\n"), "ok")),
        (get, format!("HTTP/1.1{blanks}200 OK\r\nContent-Length: 2\r\n\r\nok")),
        (get, format!("HTTP/1.1 200 {long}\r\nContent-Length: 2\r\n\r\nok")),
        (get, ok(&format!("Cookie: {long}\r\n {long}\r\nContent-Length: 2\r\n"), "ok")),
        // Longer than what is ever looked at.
        (get, ok(&format!("Content-Length:{many}2\r\n"), "ok")),
        (get, ok(&format!("Content-Length{many}: 2\r\n"), "ok")),
        (get, ok(&format!("Content-Length: 2\r\n{many}5\r\n"), "ok")),
        (get, ok(&format!("Transfer-Encoding: {long}, chunked\r\n"), "2\r\nok\r\n0\r\n\r\n")),
        (get, ok(&format!("Connection: {long}, close\r\nContent-Length: 2\r\n"), "ok")),
        (get, format!("HTTP/1.1{many}200 OK\r\nContent-Length: 2\r\n\r\nok")),
        (get, ok(&format!("C{long}: 2\r\nT{many}: chunked\r\nContent-Length: 2\r\n"), "ok")),
        // A body that must not be there, and begins like a reply.
        (head, ok("Content-Length: 5\r\n", &format!("HELLO{next}"))),
        (head, ok("Content-Length: 1\r\n", &format!("H{next}"))),
        (head, ok("Content-Length: 2\r\n", &format!("HT{next}"))),
        (head, ok("Content-Length: 4\r\n", &format!("ICE!{next}"))),
        (head, ok("Content-Length: 5\r\n", &next)),
        (head, ok("Transfer-Encoding: chunked\r\n", &next)),
        (get, format!("HTTP/1.1 304 Same\r\nContent-Length: 6\r\n\r\nhttp:/{next}")),
        // The rest of the kinds.
        (
            get,
            format!(
                "HTTP/1.1 100 Go on\r\n\r\n\r\n{}",
                ok("Transfer-Encoding: chunked\r\n", "2;x\nok\n0\na: b\n\n")
            ),
        ),
        (get, ok("Content-Length: 2\r\n", &format!("ok\r\n{next}"))),
        (get, "HTTP/1.1 200 OK\nA: b\n c\nContent-Length:\n 2\n\nok".to_owned()),
        (get, ok("Content-Length: 2\r\nContent-Length: 3\r\n", "ok")),
        (get, ok("Transfer-Encoding: chunked, x\r\n", "ok")),
        (get, ok("Transfer-Encoding: chunked\r\n", "x\r\n")),
        (get, "SSH-2.0 server\r\n".to_owned()),
        (get, ok("", "until the end")),
    ];
    for (asked, text) in cases {
        let shown = &text[..text.len().min(100)];
        let drive = |pieces: &[&[u8]]| {
            let mut framer = ReplyFramer::new();
            asked.iter().for_each(|asked| framer.expect(*asked));
            let said = outcome(drive_replies(&mut framer, pieces));
            (said, framer.persists(), framer.expected())
        };
        let whole = drive(&[text.as_bytes()]);
        let bytewise: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(drive(&bytewise), whole, "{shown:?} byte by byte");
        // Every place in a short one; in a long one those near its ends, and some between.
        let places = (0..text.len()).filter(|at| *at < 400 || text.len() - at < 400 || at % 997 == 0);
        for at in places {
            let (one, other) = text.as_bytes().split_at(at);
            assert_eq!(drive(&[one, other]), whole, "{shown:?} cut at {at}");
        }
    }
}

#[test]
fn a_reply_that_begins_before_its_request_is_known_is_unasked() {
    let mut framer = ReplyFramer::new();
    let text = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(framer.advance(text).event, Event::Head);
    assert_eq!((framer.status(), framer.is_unasked(), framer.persists()), (Some(408), true, false));
    framer.expect(Asked::method("GET"));
    framer.forget_latest();
    assert_eq!((framer.advance(b"").event, framer.expected()), (Event::End, 0));
}

#[test]
fn the_end_of_the_connection_ends_some_replies_and_cuts_others() {
    let close_after = |bytes: &[u8]| {
        let mut framer = ReplyFramer::new();
        framer.expect(Asked::method("GET"));
        drive_replies(&mut framer, &[bytes]);
        (framer.close(), framer.expected())
    };
    assert_eq!(close_after(b"HTTP/1.1 200 OK\r\n\r\nabc"), (Event::End, 0));
    assert_eq!(close_after(b""), (Event::NeedMore, 1));
    assert_eq!(close_after(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"), (Event::NeedMore, 0));
    for cut_off in [&b"HTTP/1.1 2"[..], b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc"] {
        assert!(matches!(close_after(cut_off), (Event::Invalid(_), 1)));
    }
}

#[test]
fn connections_persist_as_both_sides_say() {
    for (request, reply, expected) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: x, Close\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            false,
        ),
        (
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            false,
        ),
        ("GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false),
        (
            "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            true,
        ),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", false),
    ] {
        let mut requests = RequestFramer::new();
        requests.advance(request.as_bytes());
        let mut replies = ReplyFramer::new();
        replies.expect(requests.head(request.as_bytes()).asked());
        replies.advance(reply.as_bytes());
        assert_eq!(replies.persists(), expected, "{request:?} {reply:?}");
        assert!(!replies.is_unasked());
    }
    let mut replies = ReplyFramer::new();
    replies.advance(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n");
    assert!(replies.is_unasked() && !replies.persists());
}

/// Messages and pieces of messages, valid and not.
fn traffic() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => Just("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        4 => Just("POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n1234567"),
        4 => Just("PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nA: b\r\n\r\n"),
        4 => Just("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
        4 => Just("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"),
        2 => Just("HTTP/1.1 100 Continue\r\n\r\n"),
        1 => Just("HTTP/1.1 204 No\r\n\r\n"),
        1 => Just("HTTP/1.1 304 Same\r\nContent-Length: 3\r\n\r\nHTM"),
        1 => Just("HTTP/1.1 304 Same\r\nContent-Length: 1\r\n\r\nH"),
        1 => Just("HTTP/1.1 200 OK\r\n\r\nrest"),
        1 => Just("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: x\r\n\r\n"),
        1 => Just("Content-Length: 3\r\n"),
        1 => Just("Transfer-Encoding: chunked\r\n"),
        1 => Just("\r\n"),
        1 => Just("\n"),
        1 => Just("0\r\n\r\n"),
        1 => Just("GET / HT"),
        1 => Just("\r"),
    ];
    let flips = proptest::collection::vec((any::<usize>(), any::<u8>()), 0..3);
    (proptest::collection::vec(piece, 0..6), flips).prop_map(|(pieces, flips)| {
        let mut bytes = pieces.concat().into_bytes();
        for (at, byte) in flips {
            if !bytes.is_empty() {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
        }
        bytes
    })
}

fn without_last_invalid(mut said: Vec<Said>) -> Vec<Said> {
    if said.last() == Some(&Said::Invalid) {
        said.pop();
    }
    said
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_cut_gives_the_same_requests(bytes in traffic(), cuts in proptest::collection::vec(any::<usize>(), 0..12)) {
        let (whole, pieces) = (requests(&[&bytes]), requests(&cut(&bytes, &cuts)));
        prop_assert_eq!(whole.contains(&Said::Invalid), pieces.contains(&Said::Invalid));
        // Body bytes in front of a bad chunk size are passed on or not, as the cut has it; whole messages are.
        let ends = |said: &[Said]| said.iter().filter(|said| !matches!(said, Said::Body(_) | Said::Invalid)).cloned().collect::<Vec<_>>();
        prop_assert_eq!(ends(&whole), ends(&pieces));
        if !whole.contains(&Said::Invalid) {
            prop_assert_eq!(whole, pieces);
        }
    }

    #[test]
    fn any_cut_gives_the_same_replies(bytes in traffic(), cuts in proptest::collection::vec(any::<usize>(), 0..12)) {
        let asked = [Asked::method("GET"), Asked::method("HEAD"), Asked { upgrade: true, ..Asked::method("GET") }];
        let (whole, pieces) = (replies(&asked, &[&bytes]), replies(&asked, &cut(&bytes, &cuts)));
        let (whole, pieces) = (without_last_invalid(whole), without_last_invalid(pieces));
        prop_assert_eq!(outcome(whole), outcome(pieces));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), cuts in proptest::collection::vec(any::<usize>(), 0..6)) {
        requests(&cut(&bytes, &cuts));
        replies(&[], &cut(&bytes, &cuts));
    }

    #[test]
    fn what_is_forwarded_is_what_came(bytes in traffic(), cuts in proptest::collection::vec(any::<usize>(), 0..12)) {
        let mut forwarded = Vec::new();
        for said in requests(&cut(&bytes, &cuts)) {
            if let Said::Head(bytes) | Said::Body(bytes) | Said::Raw(bytes) = said {
                forwarded.extend(bytes);
            }
        }
        prop_assert!(bytes.starts_with(&forwarded), "in order, once, nothing else");
        let asked = [Asked::method("GET"), Asked::method("HEAD"), Asked::method("GET")];
        let mut handed_on = Vec::new();
        for said in replies(&asked, &cut(&bytes, &cuts)) {
            if let Said::Head(bytes) | Said::Interim(bytes) | Said::Body(bytes) | Said::Surplus(bytes) = said {
                handed_on.extend(bytes);
            }
        }
        prop_assert!(bytes.starts_with(&handed_on), "in order, once, nothing else");
    }
}
