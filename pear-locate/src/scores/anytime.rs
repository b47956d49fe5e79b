//! What locating within a budget spent and settled.

use pear_core::HeadId;
use serde::{Deserialize, Serialize};

/// What was spent and settled within a [`Budget`](crate::Budget).
///
/// A *row pass* takes one position of one sequence through one layer: of the run in which no head is replaced, `seq · layers` a sequence, or
/// with a head of layer `l` replaced, `layers − l` a sequence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnytimeRecord {
    /// Number of heads asked for (K).
    pub top_k: usize,
    /// Row passes that were allowed.
    pub budget: u64,
    /// Row passes that were made.
    pub row_passes: u64,
    /// Rounds; in each, fewer heads are replaced than in the one before.
    pub rounds: usize,
    /// Probability that every head is on its right side, but for those that are undecided.
    pub confidence: f64,
    /// Heads that cannot be told to be among the K or not, in the order of their ranks; none: the set is settled.
    pub undecided: Vec<HeadId>,
}

impl AnytimeRecord {
    /// Whether it is settled which heads are the K.
    pub fn is_settled(&self) -> bool {
        self.undecided.is_empty()
    }
}
