//! Byte-pair encoding: neighbouring symbols are merged, the best pair first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

/// A piece of text on its way to becoming a token.
#[derive(Clone, Debug)]
pub(super) struct Symbol {
    /// Where it is in the text.
    pub range: Range<usize>,
    /// What is known of it.
    pub id: Option<u32>,
    /// The next one; `usize::MAX` behind the last.
    next: usize,
    /// The one before; `usize::MAX` before the first.
    previous: usize,
}

const NONE: usize = usize::MAX;

/// A pair of neighbours that could be merged.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate<Rank> {
    rank: Rank,
    left: usize,
    right: usize,
    /// End of the right symbol when this was found: another one means that it is outdated.
    end: usize,
    id: u32,
}

/// Merges the letters of a text, the pair of lowest rank first and of equal ones the leftmost.
///
/// `letter` says what a single letter is, `pair` whether two neighbours can be merged, with what rank and into what.
pub(super) fn merge<Rank: Ord>(
    text: &str,
    letter: impl Fn(&str) -> Option<u32>,
    pair: impl Fn(&Symbol, &Symbol) -> Option<(Rank, u32)>,
) -> impl Iterator<Item = Symbol> {
    let mut symbols: Vec<Symbol> = (text.char_indices().enumerate())
        .map(|(index, (start, character))| {
            let range = start..start + character.len_utf8();
            Symbol {
                id: letter(&text[range.clone()]),
                next: if range.end < text.len() {
                    index + 1
                } else {
                    NONE
                },
                previous: index.checked_sub(1).unwrap_or(NONE),
                range,
            }
        })
        .collect();
    let mut queue = BinaryHeap::new();
    let push = |queue: &mut BinaryHeap<_>, symbols: &[Symbol], left: usize, right: usize| {
        let (Some(first), Some(second)) = (symbols.get(left), symbols.get(right)) else {
            return;
        };
        if let Some((rank, id)) = pair(first, second) {
            let end = second.range.end;
            queue.push(Reverse(Candidate {
                rank,
                left,
                right,
                end,
                id,
            }));
        }
    };
    for right in 1..symbols.len() {
        push(&mut queue, &symbols, right - 1, right);
    }
    while let Some(Reverse(candidate)) = queue.pop() {
        let Candidate {
            left,
            right,
            end,
            id,
            ..
        } = candidate;
        let is_current = !symbols[left].range.is_empty()
            && symbols[left].next == right
            && symbols[right].range.end == end;
        if !is_current {
            continue;
        }
        let next = symbols[right].next;
        symbols[right].range = end..end;
        let merged = &mut symbols[left];
        merged.range.end = end;
        merged.id = Some(id);
        merged.next = next;
        let previous = merged.previous;
        if let Some(next) = symbols.get_mut(next) {
            next.previous = left;
        }
        push(&mut queue, &symbols, previous, left);
        push(&mut queue, &symbols, left, next);
    }
    (symbols.into_iter()).filter(|symbol| !symbol.range.is_empty())
}
