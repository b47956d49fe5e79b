//! OLMo 3: OLMo 2 with a window in three of four layers, whose rotary positions are not stretched.

use super::rotary::RotaryKeys;
use super::windows::slide_and_rotate;
use super::{Family, olmo2};

pub(super) const FAMILY: Family = Family {
    model_type: "olmo3",
    rotary: None,
    configure_layers: |reader, layers| slide_and_rotate(reader, layers, 4, (&ROTARY, &ROTARY)),
    ..olmo2::FAMILY
};

const ROTARY: RotaryKeys = RotaryKeys {
    default_theta: 500_000.0,
    ..RotaryKeys::WHOLE_HEADS
};
