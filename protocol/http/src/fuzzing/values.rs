use crate::{
    chunked::{ChunkError, Decoder, LAST_CHUNK, chunk_head},
    content_range::ContentRange,
    multipart::Multipart,
    proxy_v2::{ProxyHeader, parse_proxy},
    range::{ByteRange, RangeSet, Resolved},
};

/// Range sets: the first 8 bytes are the length of the representation, the rest is the header's value. The value is read
/// as a Content-Range too.
pub fn range(bytes: &[u8]) {
    const MAX: usize = 16;
    let Some((total, value)) = bytes.split_first_chunk::<8>() else { return };
    let total = u64::from_le_bytes(*total);

    if let Some(read) = ContentRange::parse(value) {
        assert_eq!(ContentRange::parse(&written(read)), Some(read));
    }
    let Ok(Some(set)) = RangeSet::parse(value, MAX) else { return };
    assert!(set.specs().count() <= MAX);
    let asked: Vec<ByteRange> = set.specs().filter_map(|spec| spec.resolve(total)).collect();
    assert!(asked.iter().all(|range| range.first <= range.last && range.last < total));
    let ranges = match set.resolve(total) {
        Resolved::Full => {
            assert_eq!(total, 0);
            return;
        }
        Resolved::Unsatisfiable => {
            assert!(asked.is_empty(), "{asked:?} of {total} can be satisfied");
            return;
        }
        Resolved::Single(range) => vec![range],
        Resolved::Multiple(ranges) => {
            assert!(ranges.len() > 1);
            ranges
        }
    };
    assert!(ranges.len() <= asked.len());
    let mut sorted = ranges.clone();
    sorted.sort_by_key(|range| range.first);
    assert!(sorted.iter().all(|range| range.first <= range.last && range.last < total));
    assert!(sorted.windows(2).all(|pair| pair[0].last < pair[1].first), "{sorted:?} overlap");
    for range in asked {
        let holds = |sent: &ByteRange| sent.first <= range.first && range.last <= sent.last;
        assert!(sorted.iter().any(holds), "{range:?} is missing in {sorted:?}");
    }
    for range in &ranges {
        let value = ContentRange::Satisfied { range: *range, total: Some(total) };
        assert_eq!(ContentRange::parse(&written(value)), Some(value));
    }

    // The layout of the answer is as long as it says.
    let layout = Multipart { boundary: "b", content_type: Some("video/mp4"), total };
    let mut heads = Vec::new();
    for range in &ranges {
        layout.write_part_head(*range, &mut heads);
    }
    layout.write_trailer(&mut heads);
    let data: u128 = ranges.iter().map(|range| u128::from(range.len())).sum();
    assert!(data <= u128::from(total));
    if total < u64::MAX / 2 {
        assert_eq!(u128::from(layout.content_length(&ranges)), heads.len() as u128 + data);
    }
}

fn written(value: ContentRange) -> Vec<u8> {
    let mut out = Vec::new();
    value.write(&mut out);
    out
}

/// Chunked bodies: the first byte is how long the pieces are that the rest arrives in, 0 for at once.
pub fn chunked(bytes: &[u8]) {
    let Some((piece, input)) = bytes.split_first() else { return };
    let at_once = decode(input, input.len());
    let in_pieces = decode(input, usize::from(*piece));
    assert_eq!(in_pieces, at_once, "the pieces it arrives in do not matter");
    let Ok((body, used, done)) = at_once else { return };
    assert!(used <= input.len() && (done || used == input.len()));
    assert!(body.len() <= used);

    // Encoded again in other chunks, it decodes to the same.
    let mut again = Vec::new();
    for data in body.chunks(usize::from(*piece).max(1)) {
        again.extend_from_slice(chunk_head(data.len() as u64).as_bytes());
        again.extend_from_slice(data);
        again.extend_from_slice(b"\r\n");
    }
    again.extend_from_slice(LAST_CHUNK);
    assert_eq!(decode(&again, 7), Ok((body, again.len(), true)));
}

/// The body, the bytes used and whether it ended.
fn decode(input: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), ChunkError> {
    let mut decoder = Decoder::new();
    let (mut body, mut used) = (Vec::new(), 0);
    for mut piece in input.chunks(piece.max(1)) {
        while !piece.is_empty() && !decoder.is_done() {
            let step = decoder.decode(piece)?;
            assert!(step.used > 0 && step.used <= piece.len(), "progress is made");
            assert!(step.data.start <= step.data.end && step.data.end <= step.used);
            assert_eq!(step.done, decoder.is_done());
            body.extend_from_slice(&piece[step.data]);
            used += step.used;
            piece = &piece[step.used..];
        }
    }
    Ok((body, used, decoder.is_done()))
}

/// PROXY v2 headers.
pub fn proxy_v2(bytes: &[u8]) {
    const MAX: usize = 536;
    match parse_proxy(bytes, MAX) {
        Ok(Some((header, used))) => {
            assert!((16..=MAX).contains(&used) && used <= bytes.len());
            for end in 0..used {
                assert_eq!(parse_proxy(&bytes[..end], MAX), Ok(None), "prefix of {end} of {used}");
            }
            assert_eq!(parse_proxy(&bytes[..used], MAX), Ok(Some((header, used))));
            if let ProxyHeader::Proxied { source, destination } = header {
                assert_eq!(source.is_ipv4(), destination.is_ipv4());
            }
        }
        Ok(None) => assert!(bytes.len() < MAX),
        Err(_) => {
            let mut followed = bytes.to_vec();
            followed.push(0);
            assert!(parse_proxy(&followed, MAX).is_err(), "more bytes do not make it right");
        }
    }
}
