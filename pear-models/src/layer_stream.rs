//! Layers that are read from the checkpoint when they are visited, the next one by a thread while this one computes.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pear_core::HeadCoefficients;

use crate::error::Error;
use crate::layer::Layer;

/// What reading layers has cost since the decoder was made; see [`Decoder::stream_statistics`](crate::Decoder::stream_statistics).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamStatistics {
    /// Layers that were read.
    pub layers: u64,
    /// Bytes of the files that they were read from.
    pub bytes: u64,
    /// Time that reading and converting them took, most of it beside other work.
    pub reading: Duration,
    /// Time that a visitor waited for a layer.
    pub waiting: Duration,
}

/// Reads a layer: the layer, and the bytes of the files that hold it.
type Read = dyn Fn(usize) -> Result<(Layer, u64), Error> + Send + Sync;

/// The layers of a decoder, of which at most two are in memory: the one that was asked for last, and the one that is expected next.
///
/// Copies share these layers; their coefficients are their own.
#[derive(Clone)]
pub(crate) struct LayerStream {
    read: Arc<Read>,
    num_layers: usize,
    state: Arc<Mutex<State>>,
    /// Multiplied into the output projections, in this order.
    folded: Vec<HeadCoefficients>,
    coefficients: Option<HeadCoefficients>,
}

#[derive(Default)]
struct State {
    /// The layer that was asked for last.
    current: Option<(usize, Arc<Layer>)>,
    /// The layer that is being read.
    ahead: Option<(usize, JoinHandle<Result<Timed, Error>>)>,
    visits: Visits,
    statistics: StreamStatistics,
}

/// A layer, the bytes that hold it, and how long reading it took.
struct Timed {
    layer: Layer,
    bytes: u64,
    took: Duration,
}

impl LayerStream {
    /// `read` makes a layer, from 0 and below `num_layers`.
    pub(crate) fn new(
        num_layers: usize,
        read: impl Fn(usize) -> Result<(Layer, u64), Error> + Send + Sync + 'static,
    ) -> Self {
        Self {
            read: Arc::new(read),
            num_layers,
            state: Arc::default(),
            folded: Vec::new(),
            coefficients: None,
        }
    }

    /// The coefficients of this copy from now on, checked by the caller.
    pub(crate) fn set_coefficients(&mut self, coefficients: &HeadCoefficients) {
        self.coefficients = Some(coefficients.clone());
    }

    /// Multiplies its coefficients into the output projections from now on.
    pub(crate) fn fold(&mut self) {
        self.folded.extend(self.coefficients.take());
    }

    pub(crate) fn statistics(&self) -> StreamStatistics {
        self.state().statistics
    }

    /// # Errors
    /// A layer that cannot be read.
    pub(crate) fn layer(&self, index: usize) -> pear_core::Result<Arc<Layer>> {
        let layer = self
            .read(index)
            .map_err(|error| pear_core::Error::layer(index, error))?;
        if self.folded.is_empty() && self.coefficients.is_none() {
            return Ok(layer);
        }
        // A copy of a layer shares its weights.
        let mut layer = Layer::clone(&layer);
        let of_layer = |coefficients: &HeadCoefficients| coefficients.layer(index).cloned();
        for folded in &self.folded {
            layer.self_attn = layer.self_attn.with_coefficients(of_layer(folded))?.fold();
        }
        if let Some(coefficients) = &self.coefficients {
            layer.self_attn = layer.self_attn.with_coefficients(of_layer(coefficients))?;
        }
        Ok(Arc::new(layer))
    }

    fn read(&self, index: usize) -> Result<Arc<Layer>, Error> {
        let mut state = self.state();
        state.visits.add(index);
        // Another layer is freed here, before this one is made.
        let current = state
            .current
            .take()
            .filter(|(current, _)| *current == index);
        let layer = match current {
            Some((_, layer)) => layer,
            None => Arc::new(self.waited_for(&mut state, index)?),
        };
        state.current = Some((index, layer.clone()));
        if let Some(next) = state.visits.expected(self.num_layers)
            && next != index
            && state.ahead.as_ref().is_none_or(|(ahead, _)| *ahead != next)
        {
            // One that was expected and is not wanted is dropped before the next is begun.
            drop(state.ahead.take().map(|(_, thread)| thread.join()));
            let read = Arc::clone(&self.read);
            state.ahead = Some((next, thread::spawn(move || timed(&*read, next))));
        }
        Ok(layer)
    }

    /// The layer that is being read, if it is this one, or else one that is read now.
    fn waited_for(&self, state: &mut State, index: usize) -> Result<Layer, Error> {
        let since = Instant::now();
        let read = match state.ahead.take() {
            Some((ahead, thread)) => {
                let read = match thread.join() {
                    Ok(read) => read,
                    Err(panic) => std::panic::resume_unwind(panic),
                };
                if ahead == index { Some(read) } else { None }
            }
            None => None,
        };
        let Timed { layer, bytes, took } = match read {
            Some(read) => read?,
            None => timed(&*self.read, index)?,
        };
        state.statistics.waiting += since.elapsed();
        state.statistics.reading += took;
        state.statistics.layers += 1;
        state.statistics.bytes += bytes;
        Ok(layer)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is in there is whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn timed(read: &Read, index: usize) -> Result<Timed, Error> {
    let since = Instant::now();
    let (layer, bytes) = read(index)?;
    Ok(Timed {
        layer,
        bytes,
        took: since.elapsed(),
    })
}

impl fmt::Debug for LayerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerStream")
            .field("num_layers", &self.num_layers)
            .finish_non_exhaustive()
    }
}

/// Which layer follows which: what runs through the layers repeats itself, upwards, or up and down.
#[derive(Default)]
struct Visits {
    /// The layer before the last one, if there was one, and the last one.
    last: Option<(Option<usize>, usize)>,
    followed_by: HashMap<(Option<usize>, usize), usize>,
}

impl Visits {
    fn add(&mut self, index: usize) {
        let before = self.last.map(|(_, last)| last);
        if let Some(last) = self.last {
            self.followed_by.insert(last, index);
        }
        self.last = Some((before, index));
    }

    /// What followed the last two layers the time before, or else the next one in the same direction.
    fn expected(&self, num_layers: usize) -> Option<usize> {
        let last = self.last?;
        if let Some(&next) = self.followed_by.get(&last) {
            return Some(next);
        }
        let (before, index) = last;
        let downwards = match before {
            Some(before) if before != index => before > index,
            // The last layer twice: the way back.
            Some(_) => index + 1 == num_layers,
            None => false,
        };
        match index.checked_sub(1) {
            Some(below) if downwards => Some(below),
            _ => Some(index + 1).filter(|&next| next < num_layers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of these visits were expected.
    fn expected(num_layers: usize, visits: &[usize]) -> usize {
        let mut seen = Visits::default();
        let mut hits = 0;
        for &index in visits {
            hits += usize::from(seen.expected(num_layers) == Some(index));
            seen.add(index);
        }
        hits
    }

    #[test]
    fn the_next_layer_is_expected_upwards_and_on_the_way_back() {
        let up = [0, 1, 2, 3];
        assert_eq!(expected(4, &up), 3);
        // From the second round on nothing is unexpected.
        assert_eq!(expected(4, &up.repeat(3)), 3 + 3 + 4);
        // The last layer is visited again at once, and needs no reading.
        let up_and_down = [0, 1, 2, 3, 3, 2, 1];
        assert_eq!(expected(4, &up_and_down), 3 + 2);
        assert_eq!(expected(4, &up_and_down.repeat(3)), 5 + 7 + 7);
    }
}
