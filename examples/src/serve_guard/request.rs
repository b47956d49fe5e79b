//! The HTTP request that opens a connection.

use std::fmt;
use std::io::{self, BufRead, Read};
use std::net::SocketAddr;

/// What a connection is for: burn's server has two paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A client computes. Its first message shows the token.
    Session,
    /// Another server downloads tensors. Its requests name them by random numbers, which stand in for a token.
    Download,
}

impl Purpose {
    fn path(self) -> &'static str {
        match self {
            Self::Session => "/session",
            Self::Download => "/data",
        }
    }
}

/// A request for a WebSocket connection, as far as burn's server needs it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) purpose: Purpose,
    /// The nonce of the WebSocket handshake.
    key: String,
}

/// Why there is no [`Request`].
#[derive(Debug)]
pub(super) enum RequestError {
    /// Answered with this status line and reason.
    Refused(&'static str, &'static str),
    /// The connection ended or failed, or its time was up.
    Io(io::Error),
}

impl From<io::Error> for RequestError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

const BAD_REQUEST: &str = "400 Bad Request";

impl Request {
    /// Reads a request of at most `most` bytes.
    ///
    /// # Errors
    /// It is longer, comes from a web page, or asks for something else than a WebSocket connection to a path of burn's server.
    pub(super) fn read(reader: &mut impl BufRead, most: usize) -> Result<Self, RequestError> {
        let head = read_head(reader, most)?;
        let head = std::str::from_utf8(&head).map_err(|_| {
            RequestError::Refused(BAD_REQUEST, "the request is not text: expected HTTP/1.1")
        })?;
        Self::parse(head).map_err(|(status, reason)| RequestError::Refused(status, reason))
    }

    fn parse(head: &str) -> Result<Self, (&'static str, &'static str)> {
        let mut lines = head.lines();
        let line = lines.next().unwrap_or_default();
        let mut headers = Headers::default();
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line
                .split_once(':')
                .ok_or((BAD_REQUEST, "a header without a colon"))?;
            headers.read(name, value.trim());
        }
        // A browser names the page on whose behalf it connects, whichever host name led it here; no other client does.
        if headers.origin {
            return Err(("403 Forbidden", "Origin: web pages may not connect"));
        }
        let path = line
            .strip_prefix("GET ")
            .and_then(|rest| rest.strip_suffix(" HTTP/1.1"))
            .ok_or((BAD_REQUEST, "expected GET … HTTP/1.1"))?;
        let purpose = [Purpose::Session, Purpose::Download]
            .into_iter()
            .find(|purpose| purpose.path() == path)
            .ok_or(("404 Not Found", "expected the path /session or /data"))?;
        if !headers.upgrade || !headers.version {
            let reason = "expected a WebSocket connection, version 13";
            return Err(("426 Upgrade Required", reason));
        }
        let key = headers
            .key
            .ok_or((BAD_REQUEST, "Sec-WebSocket-Key: expected 24 characters"))?;
        Ok(Self { purpose, key })
    }

    /// The request to burn's server at `server`. It is written anew, so that nothing passes that was not checked.
    pub(super) fn to_server(&self, server: SocketAddr) -> String {
        format!(
            "GET {} HTTP/1.1\r\nHost: {server}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n\r\n",
            self.purpose.path(),
            self.key
        )
    }
}

/// The headers that matter.
#[derive(Default)]
struct Headers {
    origin: bool,
    upgrade: bool,
    version: bool,
    key: Option<String>,
}

impl Headers {
    fn read(&mut self, name: &str, value: &str) {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        if is("origin") {
            self.origin = true;
        } else if is("upgrade") {
            self.upgrade = value.eq_ignore_ascii_case("websocket");
        } else if is("sec-websocket-version") {
            self.version = value == "13";
        } else if is("sec-websocket-key") {
            let base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
            self.key =
                Some(value.into()).filter(|_| value.len() == 24 && value.chars().all(base64));
        }
    }
}

/// Reads an HTTP head, up to and with its empty line.
pub(super) fn read_head(reader: &mut impl BufRead, most: usize) -> Result<Vec<u8>, RequestError> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let left = most - head.len();
        if left == 0 {
            return Err(RequestError::Refused(
                "431 Request Header Fields Too Large",
                "the request is too long",
            ));
        }
        let mut limited = reader.by_ref().take(left as u64);
        if limited.read_until(b'\n', &mut head)? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
    Ok(head)
}

/// An answer that ends a connection.
pub(super) struct Answer<'a> {
    pub(super) status: &'a str,
    pub(super) reason: &'a str,
}

impl fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, reason } = self;
        write!(
            f,
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n{reason}\n",
            reason.len() + 1
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "GET /session HTTP/1.1\r\nHost: a:1\r\nconnection: Upgrade\r\nupgrade: WebSocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn status(head: &str) -> String {
        match Request::read(&mut head.as_bytes(), 1000) {
            Ok(_) => "101".into(),
            Err(RequestError::Refused(status, _)) => status[..3].into(),
            Err(RequestError::Io(error)) => error.kind().to_string(),
        }
    }

    #[test]
    fn requests_are_accepted_or_refused_with_a_status() {
        assert_eq!(status(HEAD), "101");
        assert_eq!(status(&HEAD.replace("/session", "/data")), "101");
        for (from, to, expected) in [
            ("Host: a:1", "Host: a:1\r\nOrigin: http://a:1", "403"),
            ("Host: a:1", "Host: a:1\r\nORIGIN: null", "403"),
            ("/session", "/other", "404"),
            ("/session", "http://a:1/session", "404"),
            ("GET", "POST", "400"),
            ("HTTP/1.1", "HTTP/1.0", "400"),
            ("Host: a:1", "Host", "400"),
            ("WebSocket\r\n", "h2c\r\n", "426"),
            ("Version: 13", "Version: 8", "426"),
            ("dGhl", "dGh", "400"),
            ("dGhl", "dG\u{e9}l", "400"),
            ("\r\n\r\n", "\r\n", "unexpected end of file"),
        ] {
            assert_eq!(status(&HEAD.replace(from, to)), expected, "{to}");
        }
        let long = format!("Host: {}", "a".repeat(1000));
        assert_eq!(status(&HEAD.replace("Host: a:1", &long)), "431");
    }

    #[test]
    fn only_what_was_checked_reaches_the_server() {
        let head = HEAD.replace("Host: a:1", "Host: a:1\r\nContent-Length: 9\r\nX: y");
        let request = Request::read(&mut head.as_bytes(), 1000).unwrap();
        let forwarded = request.to_server("127.0.0.1:2".parse().unwrap());
        assert_eq!(
            Request::read(&mut forwarded.as_bytes(), 1000).unwrap(),
            request
        );
        assert!(!forwarded.contains("Content-Length") && !forwarded.contains("X:"));
    }
}
