//! One connection: a client, burn's server, and a thread for each direction.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

use super::frame::{BINARY, Frame, Opcode};
use super::request::{Answer, Purpose, Request, RequestError, read_head};
use super::{Shared, locked};

/// A client that vanished is noticed after half a minute, as by burn's server.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(10))
    .with_interval(Duration::from_secs(5))
    .with_retries(4);

/// How long a client may take to close its side after the server's was closed.
const LINGER: Duration = Duration::from_secs(5);

/// Bytes that are read at once, in either direction, after the token was shown.
const BUFFER: usize = 256 * 1024;

/// A client, and burn's server once it is connected to it.
pub(super) struct Connection {
    client: TcpStream,
    peer: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    server: Option<Arc<TcpStream>>,
    /// The token was shown.
    verified: bool,
    /// Nothing more comes from the client.
    client_ended: bool,
    /// Nothing more comes from the server.
    server_ended: bool,
}

impl Connection {
    pub(super) fn new(client: TcpStream, peer: SocketAddr) -> Self {
        Self {
            client,
            peer,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// The client's address.
    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Lets the client send what it wants from now on.
    pub(super) fn verify(&self) {
        self.change(|state| state.verified = true);
    }

    /// Closes both sides, which ends both threads.
    pub(super) fn close(&self) {
        self.change(|state| {
            state.client_ended = true;
            state.server_ended = true;
            for stream in [Some(&self.client), state.server.as_deref()]
                .into_iter()
                .flatten()
            {
                // Fails if the other end has closed it.
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut locked(&self.state));
        self.changed.notify_all();
    }

    /// Waits until the token was accepted, the server has ended or the time is up; gives whether it was accepted.
    fn wait_until_verified(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self
            .changed
            .wait_timeout_while(locked(&self.state), left, |state| {
                !state.verified && !state.server_ended
            });
        waited.is_ok_and(|(state, _)| state.verified)
    }

    /// Waits until nothing more comes from the client, or the time to linger is over.
    fn wait_until_client_ended(&self) {
        let _ = self
            .changed
            .wait_timeout_while(locked(&self.state), LINGER, |state| !state.client_ended);
    }
}

impl Shared {
    /// Serves a connection until it ends.
    pub(super) fn run(self: &Arc<Self>, connection: &Arc<Connection>) {
        if let Err(error) = self.serve(connection) {
            log::debug!("{}: {error}", connection.peer);
        }
        connection.close();
        self.handshakes.leave(connection);
        self.downloads.leave(connection);
    }

    fn serve(self: &Arc<Self>, connection: &Arc<Connection>) -> io::Result<()> {
        let client = &connection.client;
        client.set_nodelay(true)?;
        SockRef::from(client).set_tcp_keepalive(&KEEPALIVE)?;
        let deadline = Instant::now() + self.limits.handshake;
        let mut reader = BufReader::new(Timed {
            stream: client,
            deadline: Some(deadline),
        });
        let request = match Request::read(&mut reader, self.limits.request) {
            Ok(request) => request,
            Err(RequestError::Refused(status, reason)) => {
                return answer(client, &Answer { status, reason });
            }
            Err(RequestError::Io(error)) => return Err(error),
        };

        let server = Arc::new(TcpStream::connect(self.server)?);
        server.set_nodelay(true)?;
        let address = server.local_addr()?;
        connection.change(|state| state.server = Some(server.clone()));
        locked(&self.open).insert(address, connection.clone());
        let served = self.pass(connection, &server, &request, &mut reader, deadline);
        locked(&self.open).remove(&address);
        self.closed.notify_all();
        served
    }

    /// Passes on what both sides send, until both have ended.
    fn pass(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        server: &Arc<TcpStream>,
        request: &Request,
        reader: &mut BufReader<Timed<'_>>,
        deadline: Instant,
    ) -> io::Result<()> {
        server
            .as_ref()
            .write_all(request.to_server(self.server).as_bytes())?;
        let other_direction = {
            let (shared, connection, server) = (self.clone(), connection.clone(), server.clone());
            let purpose = request.purpose;
            thread::Builder::new()
                .name("answers".into())
                .spawn(move || shared.pass_answers(&connection, &server, purpose))?
        };
        let passed = match request.purpose {
            Purpose::Session => self.pass_session(connection, server, reader, deadline),
            Purpose::Download => self.pass_requests(connection, server, reader),
        };
        match &passed {
            Ok(()) => {
                connection.change(|state| state.client_ended = true);
                // Fails if the server has closed it.
                let _ = server.shutdown(Shutdown::Write);
            }
            Err(_) => connection.close(),
        }
        // A panic there was reported by the hook.
        let _ = other_direction.join();
        passed
    }

    /// Passes on what the client of a session sends: one message until the token was accepted, everything then.
    fn pass_session(
        &self,
        connection: &Connection,
        mut server: &TcpStream,
        reader: &mut BufReader<Timed<'_>>,
        deadline: Instant,
    ) -> io::Result<()> {
        loop {
            let Some(frame) = Frame::read(reader, self.limits.message)? else {
                return Ok(());
            };
            server.write_all(&frame.bytes)?;
            if frame.opcode == Opcode::Binary {
                break;
            }
        }
        if !connection.wait_until_verified(deadline) {
            return let_read(reader);
        }
        reader.get_mut().wait_without_end()?;
        server.write_all(reader.buffer())?;
        copy(&connection.client, server)
    }

    /// Passes on the requests of another server for tensors.
    fn pass_requests(
        &self,
        connection: &Arc<Connection>,
        mut server: &TcpStream,
        reader: &mut BufReader<Timed<'_>>,
    ) -> io::Result<()> {
        let mut waits = false;
        while let Some(frame) = Frame::read(reader, self.limits.message)? {
            if frame.opcode == Opcode::Binary && !waits {
                // The tensor may be computed first, which takes as long as it takes.
                self.handshakes.leave(connection);
                self.downloads.join(connection);
                reader.get_mut().wait_without_end()?;
                waits = true;
            }
            server.write_all(&frame.bytes)?;
        }
        Ok(())
    }

    /// Passes on what the server sends, and closes the connection some time after it has ended.
    fn pass_answers(&self, connection: &Arc<Connection>, server: &TcpStream, purpose: Purpose) {
        match self.pass_from_server(connection, server, purpose) {
            Ok(()) => {
                // Fails if the client has closed it.
                let _ = connection.client.shutdown(Shutdown::Write);
                connection.change(|state| state.server_ended = true);
                connection.wait_until_client_ended();
            }
            Err(error) => log::debug!("{}: {error}", connection.peer),
        }
        connection.close();
    }

    fn pass_from_server(
        &self,
        connection: &Arc<Connection>,
        server: &TcpStream,
        purpose: Purpose,
    ) -> io::Result<()> {
        let mut client = &connection.client;
        let mut reader = BufReader::new(server);
        let head = match read_head(&mut reader, self.limits.request) {
            Ok(head) => head,
            Err(RequestError::Io(error)) => return Err(error),
            Err(RequestError::Refused(_, reason)) => return Err(io::Error::other(reason)),
        };
        client.write_all(&head)?;
        if purpose == Purpose::Download && reader.fill_buf()?.first() == Some(&BINARY) {
            self.downloads.leave(connection);
        }
        client.write_all(reader.buffer())?;
        copy(server, client)
    }
}

/// Refuses a request.
fn answer(mut client: &TcpStream, answer: &Answer<'_>) -> io::Result<()> {
    client.write_all(answer.to_string().as_bytes())?;
    client.shutdown(Shutdown::Write)?;
    let_read(&mut Timed {
        stream: client,
        deadline: Some(Instant::now() + LINGER),
    })
}

/// Lets a client read why it was refused: what it was sent may be lost where data that it has sent itself is left unread.
fn let_read(rest: &mut impl Read) -> io::Result<()> {
    io::copy(&mut rest.take(BUFFER as u64), &mut io::sink()).map(drop)
}

/// Copies until `from` ends.
fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(bytes) => to.write_all(&buffer[..bytes])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A client from which everything must have been read at some time.
struct Timed<'a> {
    stream: &'a TcpStream,
    deadline: Option<Instant>,
}

impl Timed<'_> {
    fn wait_without_end(&mut self) -> io::Result<()> {
        self.deadline = None;
        self.stream.set_read_timeout(None)
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
        }
        self.stream.read(buffer)
    }
}
