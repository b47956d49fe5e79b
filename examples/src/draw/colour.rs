//! Diverging colour scales: one side of zero against the other.

use plotters::style::RGBColor;

type Rgb = [f64; 3];

/// The colour of `x` between −1 and 1 on a light page: blue below zero, white at zero, red above (ColorBrewer RdBu); grey for NaN.
pub(crate) fn diverging(x: f64) -> RGBColor {
    const BLUE: [Rgb; 6] = [
        [247., 247., 247.],
        [209., 229., 240.],
        [146., 197., 222.],
        [67., 147., 195.],
        [33., 102., 172.],
        [5., 48., 97.],
    ];
    const RED: [Rgb; 6] = [
        [247., 247., 247.],
        [253., 219., 199.],
        [244., 165., 130.],
        [214., 96., 77.],
        [178., 24., 43.],
        [103., 0., 31.],
    ];
    mix(x, BLUE, RED)
}

/// The same on a dark page: dark at zero, the ends bright.
pub(crate) fn diverging_on_dark(x: f64) -> RGBColor {
    const BLUE: [Rgb; 6] = [
        [38., 44., 52.],
        [33., 66., 98.],
        [35., 96., 150.],
        [56., 134., 200.],
        [108., 178., 235.],
        [178., 220., 255.],
    ];
    const RED: [Rgb; 6] = [
        [38., 44., 52.],
        [92., 44., 46.],
        [146., 54., 50.],
        [204., 82., 66.],
        [244., 138., 112.],
        [255., 205., 184.],
    ];
    mix(x, BLUE, RED)
}

/// The colour at `|x|` of the 6 colours from 0 to 1 on the side of `x`.
fn mix(x: f64, below: [Rgb; 6], above: [Rgb; 6]) -> RGBColor {
    if x.is_nan() {
        return RGBColor(160, 160, 160);
    }
    let colours = if x < 0.0 { below } else { above };
    let place = x.abs().min(1.0) * 5.0;
    let from = colours[place as usize];
    let to = colours[(place as usize + 1).min(5)];
    let channel = |i: usize| (from[i] + (to[i] - from[i]) * place.fract()).round() as u8;
    RGBColor(channel(0), channel(1), channel(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_white_and_the_ends_are_far_apart() {
        assert_eq!(diverging(0.0), RGBColor(247, 247, 247));
        assert_eq!(
            (diverging(1.0), diverging(2.0)),
            (RGBColor(103, 0, 31), RGBColor(103, 0, 31))
        );
        assert_eq!(diverging(-1.0), RGBColor(5, 48, 97));
    }

    #[test]
    fn on_a_dark_page_zero_is_the_darkest_colour() {
        let brightness = |x| {
            let RGBColor(r, g, b) = diverging_on_dark(x);
            u32::from(r) + u32::from(g) + u32::from(b)
        };
        let places: Vec<f64> = (0..=10).map(|i| f64::from(i) / 10.0).collect();
        for pair in places.windows(2) {
            assert!(brightness(pair[1]) > brightness(pair[0]), "{pair:?}");
            assert!(brightness(-pair[1]) > brightness(-pair[0]), "{pair:?}");
        }
    }
}
