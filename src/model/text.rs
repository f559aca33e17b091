//! Characters in the texts of people that make a reader see something else than what is there.

/// Characters that move what stands beside them: controls, with which a text starts lines of its own
/// and steers a terminal, line separators, and marks that turn the direction of reading (Unicode
/// TR 36 §2.10). With one of these a text can look like a line that another wrote.
#[must_use]
pub const fn forges(character: char) -> bool {
    // `char::is_control` is no const function: C0, DEL and C1.
    matches!(character,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{61c}' | '\u{200e}' | '\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Those, and characters that show nothing. People need some of them to write (joiners in Persian,
/// variants of emoji): they are no reason to refuse a text, but where they can be escaped they are.
#[must_use]
pub const fn misleads(character: char) -> bool {
    forges(character)
        || matches!(character,
            '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Further ones that show nothing by themselves: fillers, joiners, variation selectors, the empty braille
/// cell. Escaping them would change texts that are on record; a text that is yet to be signed has none.
#[must_use]
pub const fn shows_nothing(character: char) -> bool {
    matches!(character,
        '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2800}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0100}'..='\u{e01ef}')
}

/// The longest reason that is taken from people, in characters, whatever it is given for.
pub const REASON_CHARS_MAX: usize = 1000;

/// Whether a text has anything that a reader sees.
#[must_use]
pub fn shows(text: &str) -> bool {
    text.chars().any(|character| !character.is_whitespace() && !misleads(character) && !shows_nothing(character))
}

/// What people write into a field of one line: trimmed, with line breaks as the blanks that they mean. None where
/// nothing in it shows, it is longer than `chars_max`, or a character in it forges.
#[must_use]
pub fn one_line(text: &str, chars_max: usize) -> Option<String> {
    let text = text.trim().replace("\r\n", " ").replace(['\n', '\r', '\t'], " ");
    let fits = shows(&text) && text.chars().count() <= chars_max && !text.chars().any(forges);
    fits.then_some(text)
}

/// The text as one word of a command that people paste into whichever shell they have; none where it could not be read
/// before it is pasted, or where no quotes hold it in every shell.
///
/// Between single quotes nothing stands for anything but itself, except the quote itself, which PowerShell also sees in
/// the curved ones, `\` in fish, and `!` in csh.
#[must_use]
pub fn shell_word(text: &str) -> Option<String> {
    let bare = |c: char| c.is_ascii_alphanumeric() || "._/@:=-".contains(c);
    if !text.is_empty() && text.chars().all(bare) {
        return Some(text.to_owned());
    }
    let escapes = |c: char| {
        matches!(c, '\'' | '\u{2018}'..='\u{201b}' | '\\' | '!')
            || misleads(c)
            || shows_nothing(c)
            || (c.is_whitespace() && c != ' ')
    };
    (!text.chars().any(escapes)).then(|| format!("'{text}'"))
}
