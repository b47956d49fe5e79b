//! What stands between the network and burn's server in the example `serve`.
//!
//! burn's server waits for a client without end, and takes a message of up to 1 GiB into memory before it checks the token. The guard
//! listens on the public address instead, and passes bytes to and from burn's server, which listens on the loopback address:
//!
//! - A connection shows its token within [`Limits::handshake`], in one message of at most [`Limits::message`] bytes, or is closed.
//! - A request with an `Origin`, which every browser sends, is refused: a web page does not reach a server that its reader can reach.
//! - At most [`Limits::unverified`] connections at a time have shown no token; a further one replaces the one that has waited longest.
//! - A session is refused if it does not come through the guard.
//!
//! burn's server checks the token ([`Guard::authorizer`]); from then on bytes are passed on unread. Servers download tensors from each
//! other (`--also-device`) without the token: a client that showed it has told the one server, and through it the other, the random
//! number of a tensor. There each message stays limited, and the connection counts as unverified until a tensor was sent.

mod connection;
mod frame;
mod request;
mod waiting;

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use burn::server::{AuthorizationRequest, ClientId, PeerAuthorizer, TokenAuthorizer};

use connection::Connection;
use waiting::Waiting;

/// The longest token, in bytes. It has to fit into [`Limits::message`].
pub const MAX_TOKEN_BYTES: usize = 4096;

/// What a client may do before it has shown the token.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The time between connecting and showing the token.
    pub handshake: Duration,
    /// Bytes of the HTTP request.
    pub request: usize,
    /// Bytes of a WebSocket message.
    pub message: usize,
    /// Connections at the same time: those in their handshake, and as many that wait for a tensor.
    pub unverified: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            request: 16 * 1024,
            message: 16 * 1024,
            unverified: 64,
        }
    }
}

/// A running guard. It runs until the process ends.
pub struct Guard(Arc<Shared>);

impl Guard {
    /// Accepts connections from `listener` and passes them on to burn's server at `server`, whose authorizer has to be
    /// [`authorizer`](Self::authorizer). Without a token, whatever a session shows is accepted.
    ///
    /// # Errors
    /// The token is empty or longer than [`MAX_TOKEN_BYTES`], or no thread can be started.
    pub fn start(
        listener: TcpListener,
        server: SocketAddr,
        token: Option<String>,
        limits: Limits,
    ) -> Result<Self> {
        let bytes = token.as_ref().map_or(0, String::len);
        ensure!(
            bytes <= MAX_TOKEN_BYTES,
            "PEAR_TOKEN: expected at most {MAX_TOKEN_BYTES} bytes, found {bytes}"
        );
        let shared = Arc::new(Shared {
            server,
            token: token.map(TokenAuthorizer::new).transpose()?,
            handshakes: Waiting::new(limits.unverified),
            downloads: Waiting::new(limits.unverified),
            limits,
            open: Mutex::default(),
            closed: Condvar::new(),
        });
        let guard = Self(shared.clone());
        thread::Builder::new()
            .name("guard".into())
            .spawn(move || accept(&shared, &listener))?;
        Ok(guard)
    }

    /// Accepts the sessions that come through this guard and show the token.
    pub fn authorizer(&self) -> impl PeerAuthorizer + use<> {
        let shared = self.0.clone();
        move |request: AuthorizationRequest<'_>| shared.authorize(&request)
    }

    /// Waits, for at most `time`, until the last bytes of a server that has ended have reached its clients.
    pub fn drain(&self, time: Duration) {
        let open = locked(&self.0.open);
        let _ = self
            .0
            .closed
            .wait_timeout_while(open, time, |open| !open.is_empty());
    }
}

/// What all connections share.
struct Shared {
    server: SocketAddr,
    token: Option<TokenAuthorizer>,
    limits: Limits,
    /// Connections that have sent no message yet, or one whose token is being checked.
    handshakes: Waiting,
    /// Other servers that were not sent a tensor yet.
    downloads: Waiting,
    /// The connections to burn's server, by the address that it sees.
    open: Mutex<HashMap<SocketAddr, Arc<Connection>>>,
    closed: Condvar,
}

impl Shared {
    fn authorize(&self, request: &AuthorizationRequest<'_>) -> Result<(), String> {
        let connection = match request.client {
            ClientId::WebSocket(address) => locked(&self.open).get(&address).cloned(),
            ClientId::Iroh(_) => None,
        };
        let connection = connection
            .ok_or_else(|| format!("{} did not come through the guard", request.client))?;
        if let Some(token) = &self.token {
            token
                .authorize(AuthorizationRequest { ..*request })
                .map_err(|_| format!("{} showed a wrong token", connection.peer()))?;
        }
        self.handshakes.leave(&connection);
        connection.verify();
        Ok(())
    }
}

/// Accepts connections until the process ends.
fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    /// Time to wait where the system has no more files or threads.
    const PAUSE: Duration = Duration::from_millis(100);
    loop {
        if let Err(error) = listener
            .accept()
            .and_then(|(client, peer)| start_connection(shared, client, peer))
        {
            log::debug!("cannot accept a connection: {error}");
            thread::sleep(PAUSE);
        }
    }
}

fn start_connection(shared: &Arc<Shared>, client: TcpStream, peer: SocketAddr) -> io::Result<()> {
    let connection = Arc::new(Connection::new(client, peer));
    shared.handshakes.join(&connection);
    let (own, of_thread) = (connection.clone(), shared.clone());
    let started = thread::Builder::new()
        .name("connection".into())
        .spawn(move || of_thread.run(&own));
    if started.is_err() {
        shared.handshakes.leave(&connection);
    }
    started.map(drop)
}

/// The contents of a lock. What a thread that panicked has left there is whole: each change is one step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
