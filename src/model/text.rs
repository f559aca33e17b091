//! Characters that a reader does not see, or that make one read something else.

/// Characters that show nothing or turn the direction of reading (Unicode TR 36 §2.10), and the
/// line separators.
#[must_use]
pub const fn misleads(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Further ones that show nothing by themselves: fillers, joiners, variation selectors, the empty braille
/// cell. Escaping them would change texts that are on record; a text that is yet to be signed has none.
#[must_use]
pub const fn shows_nothing(character: char) -> bool {
    matches!(character,
        '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2800}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0100}'..='\u{e01ef}')
}
