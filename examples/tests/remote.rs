//! Two devices served by two processes: locating and training on them give what this process gives by itself. What clients can do that do
//! not show the token.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use burn::server::{AuthorizationRequest, ClientId, PeerAuthorizer};
use common::Bench;
use pear_examples::serve_guard::{Guard, Limits};

/// A running `serve`, ended with the test.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(bench: &Bench, token: &str) -> Self {
        let local = if token.is_empty() {
            " --insecure-local"
        } else {
            ""
        };
        let mut command = bench.command(&format!("serve --listen 127.0.0.1:0{local}"));
        let mut process = command
            .env("PEAR_TOKEN", token)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let url = line
            .trim()
            .strip_prefix("serving ")
            .unwrap_or_else(|| panic!("it said `{line}`"))
            .into();
        Self { process, url }
    }

    /// Runs a command on the device, which shows this token.
    #[track_caller]
    fn assert_serves(&self, bench: &Bench, command: &str, token: &str) {
        let output = bench
            .command(&format!("{command} --device {}", self.url))
            .env("PEAR_TOKEN", token)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn address(&self) -> SocketAddr {
        self.url.strip_prefix("ws://").unwrap().parse().unwrap()
    }

    /// The most memory that it has had, in MiB, where the system says so.
    fn peak_memory(&self) -> Option<usize> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib / 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

#[test]
fn two_served_devices_locate_and_train_as_one_at_hand() {
    let bench = Bench::new();
    let servers = [Server::start(&bench, ""), Server::start(&bench, "")];
    let [first, second] = servers.each_ref().map(|server| &server.url);
    for mode in ["activation --ablation batch-mean", "path"] {
        let flags = format!(
            "--model {{llama-2}} --lengths 5,7 --samples 4,3 --metric log-prob-diff --mode {mode}"
        );
        bench.ok(&format!("locate {flags} --out here.json"));
        bench.ok(&format!(
            "locate {flags} --device {first} --dtype f32 --also-device {second} --out there.json"
        ));
        bench.assert_near(["here.json", "there.json"], "/by_length/0/scores", 1e-5);
        bench.assert_near(["here.json", "there.json"], "/by_length/1/scores", 1e-5);
    }
    let flags = "--model {llama-2} --heads 0.1,1.2 --length 6 --batch-size 4 --steps 5";
    bench.ok(&format!("train {flags} --out here.json"));
    bench.ok(&format!(
        "train {flags} --device {first} --dtype f32 --also-device {second} --out there.json"
    ));
    bench.assert_near(["here.json", "there.json"], "/coefficients", 1e-5);
    bench.assert_near(["here.json", "there.json"], "/training/loss", 1e-5);
}

#[test]
fn a_server_that_is_not_there_or_wants_a_token_is_said() {
    let bench = Bench::new();
    let score = "score --model {llama-2} --tokens tokens.jsonl --out out.json --dtype f32";
    bench.write("tokens.jsonl", "[1, 5, 9]");
    let server = Server::start(&bench, "secret");
    bench.refused(
        &format!("{score} --device {}", server.url),
        &["--device ws://127.0.0.1:", "no device is served there"],
    );
    server.assert_serves(&bench, score, "secret");
    let url = server.url.clone();
    drop(server);
    bench.refused(
        &format!("{score} --device {url}"),
        &["--device ws://127.0.0.1:", "no device is served there"],
    );
}

#[test]
fn a_server_without_a_token_is_refused_unless_only_this_machine_reaches_it() {
    let bench = Bench::new();
    bench.refused("serve --listen 127.0.0.1:0", &["PEAR_TOKEN"]);
    bench.refused(
        "serve --listen 0.0.0.0:0 --insecure-local",
        &["--insecure-local", "PEAR_TOKEN"],
    );
}

/// How a client asks for a session.
const REQUEST: &str = "GET /session HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Longer than any server waits for a client.
const FOREVER: Duration = Duration::from_secs(60);

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(FOREVER)).unwrap();
    stream
}

/// Sends a request; gives the head of the answer.
fn request(mut stream: &TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    head(stream)
}

fn head(mut stream: &TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

/// A WebSocket connection to a path.
fn upgraded(server: SocketAddr, path: &str) -> TcpStream {
    let stream = connect(server);
    let answer = request(&stream, &REQUEST.replace("/session", path));
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    stream
}

/// The start of a client's frame, with a mask of zeros.
fn frame_head(first: u8, payload: u64) -> Vec<u8> {
    [&[first, 0x80 | 127][..], &payload.to_be_bytes(), &[0; 4]].concat()
}

fn message(payload: &[u8]) -> Vec<u8> {
    [&frame_head(0x82, payload.len() as u64), payload].concat()
}

/// The first message of a client of burn: `[{"Init": [version, [session], device, token]}]` in MessagePack.
fn token_message(token: &str) -> Vec<u8> {
    let init = b"\x91\x81\xa4Init\x94\x02\x91\x07\x00\xc4";
    message(&[init, &[token.len() as u8][..], token.as_bytes()].concat())
}

/// The payload of a server's next frame, of up to 64 KiB.
fn answer(mut stream: &TcpStream) -> Vec<u8> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    let mut length = usize::from(head[1]);
    if length == 126 {
        let mut bytes = [0; 2];
        stream.read_exact(&mut bytes).unwrap();
        length = u16::from_be_bytes(bytes).into();
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).unwrap();
    payload
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

/// Sends bytes on one side of a connection and reads them on the other.
fn pass([mut from, mut to]: [&TcpStream; 2], bytes: &[u8]) {
    from.write_all(bytes).unwrap();
    let mut arrived = vec![0; bytes.len()];
    to.read_exact(&mut arrived).unwrap();
    assert!(arrived == bytes);
}

/// Waits until the server closes a connection.
#[track_caller]
fn assert_closed(mut stream: &TcpStream) {
    if let Err(error) = stream.read_to_end(&mut Vec::new()) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "it stays open");
    }
}

#[track_caller]
fn assert_open(mut stream: &TcpStream) {
    stream.set_nonblocking(true).unwrap();
    let read = stream.read(&mut [0]);
    assert_eq!(read.unwrap_err().kind(), ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
}

/// Writes `chunk` until the connection is closed.
#[track_caller]
fn assert_takes_little(mut stream: &TcpStream, chunk: &[u8]) {
    const MUCH: usize = 64 << 20;
    let mut sent = 0;
    while stream.write_all(chunk).is_ok() {
        sent += chunk.len();
        assert!(sent < MUCH, "the server took {sent} bytes");
    }
}

#[test]
fn without_the_token_no_large_message_is_taken() {
    let server = Server::start(&Bench::new(), "secret");
    let address = server.address();
    let before = server.peak_memory();
    let zeros = vec![0; 1 << 16];
    let part = [frame_head(0x00, 8192), vec![0; 8192]].concat();
    let attempts: Vec<_> = (0..6)
        .map(|attempt| {
            let (mut stream, start, chunk) = match attempt {
                0 | 1 => (
                    upgraded(address, "/session"),
                    frame_head(0x82, 1 << 30),
                    &zeros,
                ),
                // A message in parts.
                2 => (upgraded(address, "/session"), frame_head(0x02, 0), &part),
                // Another message than that with the token, and one that comes with a wrong token.
                3 => (upgraded(address, "/session"), message(&[0; 9]), &zeros),
                4 => {
                    let wrong = token_message("secreT");
                    let start = [wrong, frame_head(0x82, 1 << 30)].concat();
                    (upgraded(address, "/session"), start, &zeros)
                }
                _ => (
                    upgraded(address, "/data"),
                    frame_head(0x82, 1 << 30),
                    &zeros,
                ),
            };
            let chunk = chunk.clone();
            thread::spawn(move || {
                stream.write_all(&start).unwrap();
                assert_takes_little(&stream, &chunk);
                // Open until all have sent.
                stream
            })
        })
        .collect();
    let streams: Vec<_> = attempts.into_iter().map(|t| t.join().unwrap()).collect();
    if let (Some(before), Some(after)) = (before, server.peak_memory()) {
        // Each connection has two threads, for which the allocator reserves a few MiB.
        assert!(
            after < before + 128,
            "memory grew from {before} to {after} MiB"
        );
    }
    drop(streams);
}

#[test]
fn a_client_is_told_whether_its_token_is_right_and_then_sends_what_it_wants() {
    let server = Server::start(&Bench::new(), "secret");
    let mut refused = upgraded(server.address(), "/session");
    refused.write_all(&token_message("secreT")).unwrap();
    assert!(contains(&answer(&refused), "Unauthorized"));
    assert_closed(&refused);

    let mut verified = upgraded(server.address(), "/session");
    verified.write_all(&token_message("secret")).unwrap();
    assert!(!contains(&answer(&verified), "Refused"));
    // A frame of a kind that is refused before: a ping, which is answered.
    verified
        .write_all(&[0x89, 0x84, 0, 0, 0, 0, 1, 2, 3, 4])
        .unwrap();
    assert_eq!(answer(&verified), [1, 2, 3, 4]);
    // No batch of tasks: all of it is read, and then the session ends.
    verified.write_all(&message(&vec![0; 8 << 20])).unwrap();
    assert_closed(&verified);
}

#[test]
fn a_client_that_does_not_show_the_token_in_time_is_closed() {
    for token in ["secret", ""] {
        let server = Server::start(&Bench::new(), token);
        let address = server.address();
        let mut verified = upgraded(address, "/session");
        verified.write_all(&token_message(token)).unwrap();
        answer(&verified);

        let [silent, mut half, mut drips] = [(); 3].map(|()| connect(address));
        half.write_all(&REQUEST.as_bytes()[..40]).unwrap();
        let upgraded = ["/session", "/data"].map(|path| upgraded(address, path));
        let mut half_frame = self::upgraded(address, "/session");
        half_frame
            .write_all(&token_message("secret")[..20])
            .unwrap();
        let dripping = drips.try_clone().unwrap();
        let drip = thread::spawn(move || {
            for byte in REQUEST.bytes().cycle() {
                if drips.write_all(&[byte]).is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(500));
            }
        });
        for stream in [&silent, &half, &half_frame, &dripping] {
            assert_closed(stream);
        }
        upgraded.iter().for_each(assert_closed);
        drip.join().unwrap();
        assert_open(&verified);
    }
}

#[test]
fn web_pages_are_refused() {
    for token in ["secret", ""] {
        let server = Server::start(&Bench::new(), token);
        let address = server.address();
        for origin in ["http://example.com", "null", &format!("http://{address}")] {
            let stream = connect(address);
            let from_page = format!("Host: localhost\r\nOrigin: {origin}");
            let answer = request(&stream, &REQUEST.replace("Host: localhost", &from_page));
            assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
            assert_closed(&stream);
        }
        let stream = connect(address);
        let answer = request(&stream, &REQUEST.replace("/session", "/"));
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        let mut stream = connect(address);
        // A server without a limit closes it, too, where the request is not a whole one.
        let long = REQUEST.replace("Host: ", &format!("Host: {}", "a".repeat(20_000)));
        _ = stream.write_all(long.as_bytes());
        assert!(head(&stream).starts_with("HTTP/1.1 431 "));
    }
}

#[test]
fn clients_that_say_nothing_keep_nobody_out() {
    let bench = Bench::new();
    bench.write("tokens.jsonl", "[1, 5, 9]");
    let server = Server::start(&bench, "secret");
    let silent: Vec<_> = (0..200).map(|_| connect(server.address())).collect();
    let score = "score --model {llama-2} --tokens tokens.jsonl --out out.json --dtype f32";
    server.assert_serves(&bench, score, "secret");
    silent[..136].iter().for_each(assert_closed);
}

/// A guard in front of a server that this test plays.
struct Played {
    guard: Guard,
    address: SocketAddr,
    server: TcpListener,
}

impl Played {
    fn new(unverified: usize) -> Self {
        let [public, server] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let address = public.local_addr().unwrap();
        let limits = Limits {
            handshake: Duration::from_secs(3600),
            unverified,
            ..Limits::default()
        };
        let inner = server.local_addr().unwrap();
        let guard = Guard::start(public, inner, Some("secret".into()), limits).unwrap();
        Self {
            guard,
            address,
            server,
        }
    }

    /// The client's and the server's side of a connection.
    fn connect(&self, path: &str) -> [TcpStream; 2] {
        let mut client = connect(self.address);
        let asked = REQUEST.replace("/session", path);
        client.write_all(asked.as_bytes()).unwrap();
        let (mut server, _) = self.server.accept().unwrap();
        let asked = head(&server);
        assert!(
            asked.starts_with(&format!("GET {path} HTTP/1.1")),
            "{asked}"
        );
        server.write_all(b"HTTP/1.1 101 Yes\r\n\r\n").unwrap();
        head(&client);
        [client, server]
    }

    /// What the server's side of a connection is told when a client shows a token to it.
    fn authorize(&self, server: &TcpStream, token: &str) -> Result<(), String> {
        self.guard.authorizer().authorize(AuthorizationRequest {
            client: ClientId::WebSocket(server.peer_addr().unwrap()),
            device_index: 0,
            credential: &token.into(),
        })
    }

    fn verified(&self) -> [TcpStream; 2] {
        let [client, server] = self.connect("/session");
        pass([&client, &server], &token_message("secret"));
        self.authorize(&server, "secret").unwrap();
        [client, server]
    }

    /// A server that asks for a tensor.
    fn ask(&self, request: &[u8]) -> [TcpStream; 2] {
        let [client, server] = self.connect("/data");
        pass([&client, &server], &message(request));
        [client, server]
    }
}

#[test]
fn of_too_many_clients_without_a_token_the_oldest_are_closed() {
    let played = Played::new(4);
    let verified = played.verified();
    let waiting = played.ask(b"tensor 1");
    let silent = [(); 3].map(|()| connect(played.address));
    let upgraded = [(); 4].map(|()| played.connect("/session"));
    silent.iter().for_each(assert_closed);
    // Those with a token do not count, and those that wait for a tensor count apart.
    for stream in verified
        .iter()
        .chain(&waiting)
        .chain(upgraded.iter().flatten())
    {
        assert_open(stream);
    }
}

#[test]
fn servers_that_wait_for_tensors_are_limited_until_they_get_one() {
    let played = Played::new(2);
    let [mut served, mut server] = played.ask(b"tensor 1");
    server.write_all(b"\x82\x01x").unwrap();
    assert_eq!(answer(&served), b"x");
    let waiting: Vec<_> = (0..3).map(|_| played.ask(b"tensor 2")).collect();
    assert_closed(&waiting[0][0]);
    assert_open(&waiting[1][0]);
    assert_open(&waiting[2][0]);
    // It asks for the next one, and never sends much.
    pass([&served, &server], &message(b"tensor 3"));
    served.write_all(&frame_head(0x82, 1 << 20)).unwrap();
    assert_takes_little(&served, &[0; 1024]);
}

#[test]
fn each_side_may_end_first() {
    const BYTES: usize = 8 << 20;
    let played = Played::new(4);
    // The client has sent all, and reads the rest.
    let [mut client, mut server] = played.verified();
    let serving = thread::spawn(move || {
        let mut bytes = Vec::new();
        server.read_to_end(&mut bytes).unwrap();
        server.write_all(&bytes).unwrap();
    });
    client.write_all(&vec![7; BYTES]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert!(bytes == vec![7; BYTES]);
    serving.join().unwrap();

    // The server ends; the client, which sends nothing, is closed.
    let [mut client, mut server] = played.verified();
    let serving = thread::spawn(move || server.write_all(&vec![7; BYTES]).unwrap());
    bytes.clear();
    client.read_to_end(&mut bytes).unwrap();
    assert!(bytes == vec![7; BYTES]);
    serving.join().unwrap();
    played.guard.drain(FOREVER);
    assert!(client.write_all(&vec![7; BYTES]).is_err());

    // The client has gone; the server is told.
    let [client, server] = played.verified();
    drop(client);
    assert_closed(&server);
}

#[test]
fn sessions_are_refused_that_do_not_come_through_the_guard_or_show_another_token() {
    let played = Played::new(4);
    let [client, server] = played.connect("/session");
    let error = played.authorize(&server, "secreT").unwrap_err();
    let from = client.local_addr().unwrap().to_string();
    assert!(error.contains(&from), "{error}");
    played.authorize(&server, "secret").unwrap();

    let around = connect(played.server.local_addr().unwrap());
    let (server, _) = played.server.accept().unwrap();
    let error = played.authorize(&server, "secret").unwrap_err();
    assert!(error.contains("guard"), "{error}");
    drop(around);
}

#[test]
fn a_token_that_is_too_long_is_refused() {
    let bench = Bench::new();
    let output = bench
        .command("serve --listen 127.0.0.1:0")
        .env("PEAR_TOKEN", "a".repeat(5000))
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.contains("PEAR_TOKEN: expected at most 4096 bytes"),
        "{error}"
    );
}
