//! Read buffers. A connection that waits holds none: each thread keeps a few spare ones, and the one that was used last is
//! still in the processor's cache.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::take;
use std::pin::pin;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes that are read at once; a common message fits.
const READ_SIZE: usize = 4096;
/// Spare buffers of a thread.
const MAX_SPARE: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Reads more behind the bytes in `buffer`, and returns how many; 0 at the end of the stream. While nothing comes, an empty
/// buffer is given back. A full one grows to twice its size, so that a bound on its bytes bounds its memory too.
pub async fn read_more<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
) -> io::Result<usize> {
    poll_fn(|context| {
        if buffer.capacity() == 0 {
            *buffer = spare();
        } else if is_short(buffer) {
            buffer.reserve(READ_SIZE);
        }
        let polled = pin!(stream.read_buf(buffer)).poll(context);
        if polled.is_pending() && buffer.is_empty() {
            give_back(take(buffer));
        }
        polled
    })
    .await
}

/// Reads to the end of a stream, and keeps nothing.
pub async fn discard<S: AsyncRead + Unpin>(stream: &mut S) {
    let mut buffer = BytesMut::new();
    while let Ok(1..) = read_more(stream, &mut buffer).await {
        buffer.clear();
    }
}

/// Returns true for a buffer that is full, or that earlier messages have used up nearly.
fn is_short(buffer: &BytesMut) -> bool {
    const LITTLE: usize = READ_SIZE / 4;
    let room = buffer.capacity() - buffer.len();
    room == 0 || (room < LITTLE && buffer.len() < LITTLE)
}

fn spare() -> BytesMut {
    let kept = SPARE.with_borrow_mut(Vec::pop);
    kept.unwrap_or_else(|| BytesMut::with_capacity(READ_SIZE))
}

/// Keeps a buffer for other connections, with its bytes dropped, unless it has grown or a part of it is still in use.
pub fn give_back(mut buffer: BytesMut) {
    buffer.clear();
    // A buffer that has grown would keep its size for as long as the thread lives. The second call fails while a
    // `Bytes` still shares the storage.
    let is_larger = buffer.try_reclaim(READ_SIZE + 1);
    if is_larger || !buffer.try_reclaim(READ_SIZE) {
        return;
    }
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MAX_SPARE {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::io::{AsyncWriteExt, duplex};

    #[tokio::test]
    async fn a_connection_that_waits_holds_no_buffer() {
        let (mut ours, mut theirs) = duplex(64);
        let mut buffer = BytesMut::new();
        assert_eq!(
            read_more(&mut ours, &mut buffer).now_or_never().map(drop),
            None
        );
        assert_eq!(buffer.capacity(), 0);
        theirs.write_all(b"ab").await.unwrap();
        assert_eq!(read_more(&mut ours, &mut buffer).await.unwrap(), 2);
        // What is begun stays where it is.
        assert_eq!(
            read_more(&mut ours, &mut buffer).now_or_never().map(drop),
            None
        );
        assert_eq!(buffer, b"ab"[..]);
        drop(theirs);
        assert_eq!(read_more(&mut ours, &mut buffer).await.unwrap(), 0);
    }

    #[test]
    fn a_buffer_is_not_used_again_while_somebody_holds_a_part_of_it() {
        let mut buffer = spare();
        buffer.extend_from_slice(b"body, and more");
        let body = buffer.split_to(4).freeze();
        give_back(buffer);
        let mut other = spare();
        other.extend_from_slice(b"another's");
        assert_eq!(body, b"body"[..]);
        let place = body.as_ptr();
        give_back(body.try_into_mut().unwrap());
        assert_eq!(spare().as_ptr(), place);
    }

    #[test]
    fn what_has_become_large_is_not_kept() {
        let kept = || SPARE.with_borrow(Vec::len);
        let before = kept();
        for taken in [0, 1, 60_000, 61_440, 65_000, 65_536] {
            let mut buffer = BytesMut::with_capacity(READ_SIZE);
            buffer.resize(65_536, b'x');
            drop(buffer.split_to(taken));
            give_back(buffer);
            assert_eq!(kept(), before, "{taken}");
        }
        for taken in [0, 1, READ_SIZE] {
            let mut buffer = BytesMut::with_capacity(READ_SIZE);
            buffer.resize(READ_SIZE, b'x');
            drop(buffer.split_to(taken));
            give_back(buffer);
        }
        assert_eq!(kept(), before + 3);
    }
}
