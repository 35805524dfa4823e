use super::*;

/// Body, bytes used and whether it ended, with the input cut into pieces.
fn decode(input: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), ChunkError> {
    let mut decoder = Decoder::new();
    let (mut body, mut used) = (Vec::new(), 0);
    for piece in input.chunks(piece) {
        let mut rest = piece;
        while !rest.is_empty() && !decoder.is_done() {
            let step = decoder.decode(rest)?;
            assert!(step.used > 0 && step.data.end <= step.used, "{step:?}");
            assert_eq!(step.done, decoder.is_done());
            body.extend(&rest[step.data]);
            used += step.used;
            rest = &rest[step.used..];
        }
    }
    Ok((body, used, decoder.is_done()))
}

fn all_ways(input: &[u8]) -> Result<(Vec<u8>, usize, bool), ChunkError> {
    let whole = decode(input, input.len().max(1));
    for piece in 1..input.len() {
        assert_eq!(decode(input, piece), whole, "in pieces of {piece}");
    }
    whole
}

#[test]
fn bodies_in_any_pieces() {
    for (input, body) in [
        ("0\r\n\r\n", ""),
        ("4\r\nWiki\r\n5\r\npedia\r\n0\r\n\r\n", "Wikipedia"),
        ("A\r\n0123456789\r\n00\r\n\r\n", "0123456789"),
        ("1;a=b;c=\"d;e\"\r\nx\r\n0;last\r\n\r\n", "x"),
        ("1 ; a = b\r\nx\r\n0\r\n\r\n", "x"),
        ("1   \r\nx\r\n0  \r\n\r\n", "x"),
        ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n"),
        ("0\r\nExpires: never\r\nX-Sum: 1\t2\r\n\r\n", ""),
    ] {
        assert_eq!(all_ways(input.as_bytes()), Ok((body.as_bytes().to_vec(), input.len(), true)), "{input:?}");
    }
}

#[test]
fn what_follows_is_left_alone() {
    let input = b"1\r\nx\r\n0\r\n\r\nHTTP/1.1 200 OK";
    assert_eq!(all_ways(input), Ok((b"x".to_vec(), 11, true)));
    let mut decoder = Decoder::new();
    assert!(decoder.decode(b"0\r\n\r\n").unwrap().done);
    assert_eq!(decoder.decode(b"more"), Ok(Step { used: 0, data: 0..0, done: true }));
}

#[test]
fn a_body_cut_short_is_not_done() {
    let input = b"4;x\r\nWiki\r\n0\r\nA: b\r\n\r\n";
    for end in 0..input.len() {
        let (_, used, done) = decode(&input[..end], 100).unwrap();
        assert_eq!((used, done), (end, false));
    }
}

#[test]
fn broken_framing() {
    for (input, error) in [
        ("\r\n", ChunkError::Size),
        ("g\r\n", ChunkError::Size),
        ("-1\r\n", ChunkError::Size),
        ("+1\r\n", ChunkError::Size),
        ("0x1\r\n", ChunkError::Size),
        (" 1\r\n", ChunkError::Size),
        ("1 1\r\n", ChunkError::Size),
        ("1\n", ChunkError::Size),
        (";a\r\n", ChunkError::Size),
        ("8000000000000000\r\n", ChunkError::Size),
        ("10000000000000000\r\n", ChunkError::Size),
        ("1\rx", ChunkError::Framing("CR without LF")),
        ("1;\n", ChunkError::Framing("control character in a chunk extension")),
        ("1;a\0\r\n", ChunkError::Framing("control character in a chunk extension")),
        ("1\r\nxx", ChunkError::Framing("chunk data is not followed by CRLF")),
        ("1\r\nx\n", ChunkError::Framing("chunk data is not followed by CRLF")),
        ("1\r\nx\r\r", ChunkError::Framing("chunk data is not followed by CRLF")),
        ("0\r\n\n", ChunkError::Framing("control character in a trailer")),
        ("0\r\nA: b\n", ChunkError::Framing("control character in a trailer")),
        ("0\r\nA: b\rx", ChunkError::Framing("CR without LF")),
        ("0\r\n\rx", ChunkError::Framing("CR without LF")),
    ] {
        assert_eq!(all_ways(input.as_bytes()), Err(error), "{input:?}");
    }
    assert!(decode(b"7fffffffffffffff\r\n", 100).is_ok());
}

#[test]
fn lines_are_bounded() {
    let max = MAX_EXTENSION_BYTES as usize;
    let extension = |length: usize| format!("1;{}\r\n", "a".repeat(length));
    assert!(decode(extension(max - 1).as_bytes(), 10_000).is_ok());
    assert_eq!(decode(extension(max).as_bytes(), 10_000), Err(ChunkError::ExtensionTooLong));
    assert_eq!(decode(format!("1{}", " ".repeat(max)).as_bytes(), 10_000), Err(ChunkError::ExtensionTooLong));
    assert_eq!(decode("0".repeat(max + 1).as_bytes(), 10_000), Err(ChunkError::Size));
    // The bound is per chunk.
    assert!(decode(format!("{}x\r\n", extension(200)).repeat(100).as_bytes(), 10_000).is_ok());
    let trailers = format!("0\r\n{}", "A: b\r\n".repeat(MAX_TRAILER_BYTES as usize));
    assert_eq!(decode(trailers.as_bytes(), 10_000), Err(ChunkError::TrailersTooLong));
}

#[test]
fn written_chunks_are_read() {
    for length in [1, 9, 10, 15, 16, 255, 4096, 1 << 20] {
        let data = vec![7; length as usize];
        let mut input = chunk_head(length).as_bytes().to_vec();
        assert_eq!(input, format!("{length:x}\r\n").as_bytes());
        input.extend(&data);
        input.extend(b"\r\n");
        input.extend(LAST_CHUNK);
        assert_eq!(decode(&input, 5000), Ok((data, input.len(), true)));
    }
    assert_eq!(chunk_head(u64::MAX).as_bytes(), b"ffffffffffffffff\r\n");
}
