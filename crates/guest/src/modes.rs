//! Modes of a terminal as SSH numbers them (RFC 4254, 8; RFC 8160 for 42), put into what the kernel calls them.

use rustix::termios::{ControlModes, InputModes, LocalModes, OutputModes, SpecialCodeIndex, Termios};

/// What SSH says for a character that is switched off; the kernel says 0.
const NO_CHARACTER: u32 = 255;

/// Changes `termios` as `modes` say; opcodes that Linux has nothing for are left out.
pub(crate) fn apply(termios: &mut Termios, modes: &[(u8, u32)]) {
    for (opcode, value) in modes {
        if let Some(index) = character(*opcode) {
            let byte = if *value == NO_CHARACTER { Some(0) } else { u8::try_from(*value).ok() };
            if let Some(byte) = byte {
                termios.special_codes[index] = byte;
            }
        } else {
            apply_flag(termios, *opcode, *value);
        }
    }
}

fn apply_flag(termios: &mut Termios, opcode: u8, value: u32) {
    let on = value != 0;
    if let Some(flag) = input(opcode) {
        termios.input_modes.set(flag, on);
    } else if let Some(flag) = local(opcode) {
        termios.local_modes.set(flag, on);
    } else if let Some(flag) = output(opcode) {
        termios.output_modes.set(flag, on);
    } else {
        match opcode {
            // A size of 7 or 8 bits: each is said to be on by itself.
            90 if on => set_bits(termios, ControlModes::CS7),
            91 if on => set_bits(termios, ControlModes::CS8),
            92 => termios.control_modes.set(ControlModes::PARENB, on),
            93 => termios.control_modes.set(ControlModes::PARODD, on),
            // A speed the kernel does not take means nothing to a terminal without a line.
            128 => drop(termios.set_input_speed(value)),
            129 => drop(termios.set_output_speed(value)),
            _ => {}
        }
    }
}

fn set_bits(termios: &mut Termios, bits: ControlModes) {
    termios.control_modes.remove(ControlModes::CSIZE);
    termios.control_modes.insert(bits);
}

const fn character(opcode: u8) -> Option<SpecialCodeIndex> {
    Some(match opcode {
        1 => SpecialCodeIndex::VINTR,
        2 => SpecialCodeIndex::VQUIT,
        3 => SpecialCodeIndex::VERASE,
        4 => SpecialCodeIndex::VKILL,
        5 => SpecialCodeIndex::VEOF,
        6 => SpecialCodeIndex::VEOL,
        7 => SpecialCodeIndex::VEOL2,
        8 => SpecialCodeIndex::VSTART,
        9 => SpecialCodeIndex::VSTOP,
        10 => SpecialCodeIndex::VSUSP,
        12 => SpecialCodeIndex::VREPRINT,
        13 => SpecialCodeIndex::VWERASE,
        14 => SpecialCodeIndex::VLNEXT,
        16 => SpecialCodeIndex::VSWTC,
        18 => SpecialCodeIndex::VDISCARD,
        _ => return None,
    })
}

const fn input(opcode: u8) -> Option<InputModes> {
    Some(match opcode {
        30 => InputModes::IGNPAR,
        31 => InputModes::PARMRK,
        32 => InputModes::INPCK,
        33 => InputModes::ISTRIP,
        34 => InputModes::INLCR,
        35 => InputModes::IGNCR,
        36 => InputModes::ICRNL,
        37 => InputModes::IUCLC,
        38 => InputModes::IXON,
        39 => InputModes::IXANY,
        40 => InputModes::IXOFF,
        41 => InputModes::IMAXBEL,
        42 => InputModes::IUTF8,
        _ => return None,
    })
}

const fn local(opcode: u8) -> Option<LocalModes> {
    Some(match opcode {
        50 => LocalModes::ISIG,
        51 => LocalModes::ICANON,
        52 => LocalModes::XCASE,
        53 => LocalModes::ECHO,
        54 => LocalModes::ECHOE,
        55 => LocalModes::ECHOK,
        56 => LocalModes::ECHONL,
        57 => LocalModes::NOFLSH,
        58 => LocalModes::TOSTOP,
        59 => LocalModes::IEXTEN,
        60 => LocalModes::ECHOCTL,
        61 => LocalModes::ECHOKE,
        62 => LocalModes::PENDIN,
        _ => return None,
    })
}

const fn output(opcode: u8) -> Option<OutputModes> {
    Some(match opcode {
        70 => OutputModes::OPOST,
        71 => OutputModes::OLCUC,
        72 => OutputModes::ONLCR,
        73 => OutputModes::OCRNL,
        74 => OutputModes::ONOCR,
        75 => OutputModes::ONLRET,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal;

    #[test]
    fn known_modes_are_set_and_others_left_alone() {
        let (master, _slave, _path) = terminal::open(0, &portway_proto::guest::Size::default(), &[]).unwrap();
        let before = rustix::termios::tcgetattr(&master).unwrap();
        let mut termios = before.clone();
        let wanted =
            [(1, 7), (3, 255), (53, 0), (42, 1), (72, 0), (90, 1), (99, 1), (4, 70_000), (128, 9600)];
        apply(&mut termios, &wanted);
        assert_eq!(termios.special_codes[SpecialCodeIndex::VINTR], 7);
        assert_eq!(termios.special_codes[SpecialCodeIndex::VERASE], 0);
        assert_eq!(
            termios.special_codes[SpecialCodeIndex::VKILL],
            before.special_codes[SpecialCodeIndex::VKILL]
        );
        assert!(!termios.local_modes.contains(LocalModes::ECHO));
        assert!(termios.local_modes.contains(LocalModes::ICANON));
        assert!(termios.input_modes.contains(InputModes::IUTF8));
        assert!(!termios.output_modes.contains(OutputModes::ONLCR));
        assert_eq!(termios.control_modes & ControlModes::CSIZE, ControlModes::CS7);
        assert_eq!(termios.input_speed(), 9600);
    }
}
