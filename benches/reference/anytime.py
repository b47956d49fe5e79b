"""How many of the ten best heads half of the row passes find, over many draws of the sequences: locating within a budget and the uniform sweep,
from the logits of one large run, which are resampled.

    pip install numpy scipy
    PEAR_LOGITS=FOLDER PEAR_MODEL=MODEL cargo test --release -p pear-models --test within_budget -- --ignored logits_of_many
    python benches/reference/anytime.py FOLDER [--draws 300]

Each draw divides the sequences: a third of them, four times the default, for both ways of locating; the rest is the truth. The rounds are those
of `pear_locate::AnytimeLocator`, written once more.
"""

import argparse
import json
import pathlib

import numpy as np
from scipy.stats import t as student

# Default sequences of each length.
SAMPLES = {10: 100, 15: 80, 25: 40, 50: 20}
# Sequences that there are to be drawn from, times the default.
AVAILABLE = 4
TOP_K = 10
ROUNDS = 4
FIRST_SEQUENCES = 4
CONFIDENCE = 0.95


class Logits:
    def __init__(self, folder):
        self.lengths = []
        for n in SAMPLES:
            found = json.loads((folder / f"{n}.json").read_text())
            patched = np.array(found["patched_logits"], dtype=np.float64)
            layers, heads, count = patched.shape
            base = np.array(found["base_logits"], dtype=np.float64)
            self.lengths.append((patched.reshape(layers * heads, count) - base, base))
        self.heads = layers * heads
        # Row passes of a replaced head, and of a sequence with none.
        self.head_costs = np.repeat(layers - np.arange(layers), heads).astype(float)
        self.clean_costs = np.array([2.0 * n * layers for n in SAMPLES])

    def deviations(self, length, heads, sequences):
        """Scores of one length, and how far each sequence is from them (the delta method for a ratio of means)."""
        differences, base = self.lengths[length]
        differences, base = differences[np.ix_(heads, sequences)], base[sequences]
        scores = differences.mean(1) / base.mean()
        return scores, (differences - scores[:, None] * base) / base.mean()


def value(score, variance, rank_by):
    return score / np.sqrt(variance) if rank_by == "z" else score


def slopes(score, variance, rank_by):
    """By the score and by its variance."""
    if rank_by == "score":
        return np.ones_like(score), np.zeros_like(score)
    error = np.sqrt(variance)
    return 1 / error, -score / (2 * variance * error)


def highest(values):
    return np.argsort(-values, kind="stable")[:TOP_K]


def uniform(logits, sequences, rank_by):
    """Ranks every head by all of these sequences."""
    score, variance = 0.0, 0.0
    for length, (chosen, samples) in enumerate(zip(sequences, SAMPLES.values())):
        scores, deviations = logits.deviations(length, np.arange(logits.heads), chosen)
        score = score + scores / len(SAMPLES)
        variances = (deviations**2).sum(1) / (len(chosen) - 1)
        variance = variance + variances / (AVAILABLE * samples) / len(SAMPLES) ** 2
    return value(score, variance, rank_by)


class Anytime:
    """The rounds of a budget."""

    def __init__(self, logits, sequences, rank_by, budget):
        self.logits, self.sequences, self.rank_by, self.budget = logits, sequences, rank_by, budget
        self.active = np.arange(logits.heads)
        self.run = np.zeros(len(SAMPLES), int)
        self.samples = np.zeros((logits.heads, len(SAMPLES)), int)
        self.spent = 0.0

    def locate(self):
        variances = np.ones(len(SAMPLES))
        for number in range(ROUNDS):
            counts = self.counts(number, variances)
            if not counts.any():
                break
            self.spent += (self.costs() * counts).sum()
            self.run += counts
            self.samples[self.active] = self.run
            values, moves = self.candidates()
            survivors, boundary = self.survivors(values, moves, number)
            if not len(survivors):
                break
            self.active = survivors
            variances = np.array(
                [
                    (((move[survivors] - move[boundary]) ** 2).sum(1) * self.samples[survivors, length]).sum()
                    for length, move in enumerate(moves)
                ]
            )
        assert self.spent <= self.budget
        return values

    def costs(self):
        """Row passes of a sequence of each length."""
        return self.logits.clean_costs + self.logits.head_costs[self.active].sum()

    def counts(self, number, variances):
        """Sequences of each length for the next round."""
        costs, left = self.costs(), self.budget - self.spent
        share = left / (ROUNDS - number)
        if number:
            return self.more(self.run, variances, min(left, max(share, costs.max())))
        first = np.full(len(SAMPLES), int(min(FIRST_SEQUENCES, self.budget // costs.sum())))
        return first + self.more(first, variances, share - (costs * first).sum())

    def more(self, run, variances, left):
        """Sequences for so many row passes, one at a time, where one lowers the variance most for its cost."""
        costs, counts = self.costs(), np.zeros(len(SAMPLES), int)
        while True:
            samples = run + counts
            gains = variances / (samples * (samples + 1)) / costs
            gains[(costs > left) | (samples >= [len(chosen) for chosen in self.sequences])] = -1
            best = int(np.argmax(gains))
            if gains[best] < 0:
                return counts
            counts[best] += 1
            left -= costs[best]

    def candidates(self):
        """What each head is ranked by, and how each sequence moves that."""
        heads, parts = self.logits.heads, len(SAMPLES)
        score, variance, deviations = np.zeros(heads), np.zeros(heads), []
        for length, samples in enumerate(SAMPLES.values()):
            of_length = np.zeros((heads, self.run[length]))
            for count in np.unique(self.samples[:, length]):
                same = np.flatnonzero(self.samples[:, length] == count)
                scores, found = self.logits.deviations(length, same, self.sequences[length][:count])
                score[same] += scores / parts
                variance[same] += (found**2).sum(1) / (count - 1) / (AVAILABLE * samples) / parts**2
                of_length[same, :count] = found
            deviations.append(of_length)
        by_score, by_variance = slopes(score, variance, self.rank_by)
        moves = []
        for length, (found, samples) in enumerate(zip(deviations, SAMPLES.values())):
            count = self.samples[:, length]
            seen = np.arange(found.shape[1]) < count[:, None]
            mean_square = (found**2).sum(1) / count
            of_variance = (found**2 - mean_square[:, None]) / (parts**2 * AVAILABLE * samples)
            move = by_score[:, None] * found / parts + by_variance[:, None] * of_variance
            moves.append(move / count[:, None] * seen)
        return value(score, variance, self.rank_by), moves

    def survivors(self, values, moves, number):
        """The undecided heads that are nearest to the boundary for their cost, and the first head beyond it."""
        order = np.argsort(-values, kind="stable")
        inside, outside = order[:TOP_K], order[TOP_K:]
        variance, degrees = 0.0, 0.0
        for length, move in enumerate(moves):
            a, b = move[inside], move[outside]
            squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
            common = np.minimum(self.samples[inside, length][:, None], self.samples[outside, length])
            variance = variance + np.maximum(squares, 0) * common / (common - 1)
            degrees = degrees + common - 1
        rate = (1 - CONFIDENCE) / ROUNDS / (len(inside) * len(outside))
        differences = values[inside][:, None] - values[outside]
        shares = differences / np.sqrt(variance) / student.isf(rate, degrees)
        separation = np.zeros(self.logits.heads)
        separation[inside], separation[outside] = shares.min(1), shares.min(0)

        costs = self.logits.head_costs
        target = max(costs.sum() / 2 ** (number + 1), self.logits.clean_costs.mean() / 2)
        undecided = self.active[separation[self.active] < 1]
        nearest = undecided[np.argsort(separation[undecided] * np.sqrt(costs[undecided]), kind="stable")]
        return np.sort(nearest[np.cumsum(costs[nearest]) <= target]), order[TOP_K]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--draws", type=int, default=300)
    arguments = arguments.parse_args()
    logits = Logits(arguments.folder)
    samples = np.array(list(SAMPLES.values()))
    budget = ((logits.clean_costs + logits.head_costs.sum()) * samples).sum() / 2
    for rank_by in ("z", "score"):
        generator, shares = np.random.default_rng(1), []
        for _ in range(arguments.draws):
            order = [generator.permutation(len(base)) for _, base in logits.lengths]
            drawn = [chosen[: AVAILABLE * count] for chosen, count in zip(order, samples)]
            rest = [chosen[AVAILABLE * count :] for chosen, count in zip(order, samples)]
            best = set(highest(uniform(logits, rest, rank_by)))
            default = [chosen[:count] for chosen, count in zip(drawn, samples)]
            found = [uniform(logits, default, rank_by), Anytime(logits, drawn, rank_by, budget).locate()]
            shares.append([len(best & set(highest(values))) / TOP_K for values in found])
        all_passes, half = np.mean(shares, 0)
        differences = np.diff(shares, axis=1)
        error = differences.std() / np.sqrt(len(shares))
        print(
            f"by {rank_by}, {len(shares)} draws: uniform {all_passes:.3f}, half of its row passes {half:.3f}, "
            f"difference {differences.mean():+.3f} ({error:.3f})"
        )


main()
