//! The connections that have shown no token yet.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::connection::Connection;
use super::locked;

/// At most so many connections, oldest first.
pub(super) struct Waiting {
    most: usize,
    queue: Mutex<VecDeque<Arc<Connection>>>,
}

impl Waiting {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            queue: Mutex::default(),
        }
    }

    /// Adds a connection. If there are too many then, the oldest is closed: clients that never say anything keep nobody else out.
    pub(super) fn join(&self, connection: &Arc<Connection>) {
        let oldest = {
            let mut queue = locked(&self.queue);
            queue.push_back(connection.clone());
            (queue.len() > self.most)
                .then(|| queue.pop_front())
                .flatten()
        };
        if let Some(oldest) = oldest {
            oldest.close();
        }
    }

    /// Removes a connection if it is there.
    pub(super) fn leave(&self, connection: &Arc<Connection>) {
        locked(&self.queue).retain(|other| !Arc::ptr_eq(other, connection));
    }
}
