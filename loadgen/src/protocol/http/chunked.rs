//! The chunked coding (RFC 9112 §7.1), byte by byte: only its framing, never its data.

/// Where inside the chunked coding (RFC 9112 §7.1) the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    Size { size: u64, digits: u8 },
    Extension { size: u64 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    TrailerStart,
    TrailerLine,
    TrailerLf,
    EndLf,
}

impl Chunk {
    /// The state after one byte of framing; `None` when it cannot stand here.
    pub(super) fn after(self, byte: u8) -> Option<Chunk> {
        match (self, byte) {
            (Chunk::Size { size, digits }, b) if b.is_ascii_hexdigit() => {
                // 15 digits are 2^60 bytes; more could overflow.
                let digit = u64::from((b as char).to_digit(16)?);
                (digits < 15).then_some(Chunk::Size { size: size * 16 + digit, digits: digits + 1 })
            }
            (Chunk::Size { digits: 0, .. }, _) => None,
            (Chunk::Size { size, .. } | Chunk::Extension { size }, b'\r') => Some(Chunk::SizeLf { size }),
            (Chunk::Size { size, .. }, b';' | b' ' | b'\t') => Some(Chunk::Extension { size }),
            (Chunk::Extension { size }, b) if b != b'\n' => Some(Chunk::Extension { size }),
            (Chunk::SizeLf { size: 0 }, b'\n') => Some(Chunk::TrailerStart),
            (Chunk::SizeLf { size }, b'\n') => Some(Chunk::Data { left: size }),
            (Chunk::DataCr, b'\r') => Some(Chunk::DataLf),
            (Chunk::DataLf, b'\n') => Some(Chunk::Size { size: 0, digits: 0 }),
            (Chunk::TrailerStart, b'\r') => Some(Chunk::EndLf),
            (Chunk::TrailerStart, b) if b != b'\n' => Some(Chunk::TrailerLine),
            (Chunk::TrailerLine, b'\r') => Some(Chunk::TrailerLf),
            (Chunk::TrailerLine, b) if b != b'\n' => Some(Chunk::TrailerLine),
            (Chunk::TrailerLf, b'\n') => Some(Chunk::TrailerStart),
            _ => None,
        }
    }
}
