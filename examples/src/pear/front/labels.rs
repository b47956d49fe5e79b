//! Where names go, so that they cover neither each other nor the points.

/// A rectangle in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rectangle {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Rectangle {
    pub(super) fn around((x, y): (f64, f64), radius: f64) -> Self {
        Self {
            left: x - radius,
            top: y - radius,
            right: x + radius,
            bottom: y + radius,
        }
    }

    /// What a line covers.
    pub(super) fn between(from: (f64, f64), to: (f64, f64), radius: f64) -> Self {
        Self {
            left: from.0.min(to.0) - radius,
            top: from.1.min(to.1) - radius,
            right: from.0.max(to.0) + radius,
            bottom: from.1.max(to.1) + radius,
        }
    }

    fn overlap(&self, other: &Self) -> f64 {
        let width = self.right.min(other.right) - self.left.max(other.left);
        let height = self.bottom.min(other.bottom) - self.top.max(other.top);
        width.max(0.0) * height.max(0.0)
    }

    /// The part of it that is outside of another.
    fn outside(&self, other: &Self) -> f64 {
        let area = (self.right - self.left) * (self.bottom - self.top);
        area - self.overlap(other)
    }
}

/// A name with its place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Label {
    /// Where the text starts, on its baseline.
    pub(super) at: (f64, f64),
    /// Whether it is so far from its point that a line between them helps.
    pub(super) far: bool,
    /// What it covers.
    pub(super) covers: Rectangle,
}

/// Height of a line of text.
const HEIGHT: f64 = 14.0;
/// From the baseline to the lower end of a line of text.
const DESCENT: f64 = 3.5;

/// Width of a text of 12 pixels in a usual sans-serif font, rather too much than too little.
pub(super) fn width(text: &str) -> f64 {
    6.7 * text.chars().count() as f64
}

/// Places for the names of points, in the order given: each where it covers least of what is there already, near its point first.
pub(super) fn place(
    points: &[((f64, f64), String)],
    taken: &[Rectangle],
    area: Rectangle,
) -> Vec<Label> {
    let mut taken = taken.to_vec();
    let mut labels = Vec::new();
    for (point, name) in points {
        let candidates = candidates(*point, width(name));
        let cost = |(order, label): &(usize, Label)| {
            let covered: f64 = taken.iter().map(|other| label.covers.overlap(other)).sum();
            covered + 3.0 * label.covers.outside(&area) + 0.5 * *order as f64
        };
        let best = candidates
            .into_iter()
            .enumerate()
            .min_by(|a, b| cost(a).total_cmp(&cost(b)));
        let Some((_, label)) = best else { continue };
        taken.push(label.covers);
        labels.push(label);
    }
    labels
}

/// Places around a point, the preferred ones first.
fn candidates((x, y): (f64, f64), width: f64) -> Vec<Label> {
    // To the right, to the left, above and below, then further away.
    const GAP: f64 = 9.0;
    let mut places = Vec::new();
    for distance in [0.0, 14.0, 28.0, 42.0] {
        let beside = GAP + 0.6 * distance;
        for up in [0.0, 1.0, -1.0] {
            if up == 0.0 && distance > 14.0 {
                continue;
            }
            let middle = y - up * (HEIGHT * 0.6 + distance);
            for left in [x + beside, x - beside - width] {
                places.push((left, middle, distance));
            }
        }
        for up in [1.0, -1.0] {
            places.push((x - width / 2.0, y - up * (HEIGHT + distance), distance));
        }
    }
    places
        .into_iter()
        .map(|(left, middle, distance)| {
            let bottom = middle + HEIGHT / 2.0;
            Label {
                at: (left, bottom - DESCENT),
                far: distance > 0.0,
                covers: Rectangle {
                    left,
                    top: bottom - HEIGHT,
                    right: left + width,
                    bottom,
                },
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AREA: Rectangle = Rectangle {
        left: 0.0,
        top: 0.0,
        right: 300.0,
        bottom: 200.0,
    };

    #[test]
    fn names_of_near_points_do_not_cover_each_other_and_stay_inside() {
        let points: Vec<_> = (0..8)
            .map(|i| {
                (
                    (240.0 + f64::from(i % 3) * 12.0, 100.0 + f64::from(i) * 4.0),
                    "all-kl-40".to_owned(),
                )
            })
            .collect();
        let marks: Vec<_> = points
            .iter()
            .map(|(at, _)| Rectangle::around(*at, 5.0))
            .collect();
        let labels = place(&points, &marks, AREA);
        assert_eq!(labels.len(), points.len());
        for (i, a) in labels.iter().enumerate() {
            assert!(a.covers.outside(&AREA) < 1e-9, "{a:?}");
            for b in &labels[..i] {
                assert!(a.covers.overlap(&b.covers) < 1e-9, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn a_name_alone_stands_to_the_right_of_its_point() {
        let label = place(
            &[((50.0, 50.0), "a".into())],
            &[Rectangle::around((50.0, 50.0), 5.0)],
            AREA,
        )[0];
        assert!(label.covers.left > 55.0 && !label.far);
    }
}
