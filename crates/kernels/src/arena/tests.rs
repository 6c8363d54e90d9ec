use super::*;

fn take(arena: &Arena, grains: usize) -> Buffer {
    let buffer = arena.take(grains * GRAIN).expect("memory");
    // SAFETY: the buffer is that long.
    unsafe { buffer.ptr().add(grains * GRAIN - 1).write(1) };
    buffer
}

#[test]
fn pages_are_used_again_before_fresh_ones() {
    let arena = Arena::default();
    let (a, b) = (take(&arena, 8), take(&arena, 2));
    let address = a.ptr();
    drop(a);
    assert_eq!(arena.resident(), 10 * GRAIN);
    let again = take(&arena, 5);
    assert_eq!(again.ptr(), address);
    let rest = take(&arena, 3);
    assert_eq!(rest.ptr(), address.wrapping_add(5 * GRAIN));
    assert_eq!(arena.resident(), 10 * GRAIN);
    drop((again, rest, b));
    let whole = take(&arena, 10);
    assert_eq!(whole.ptr(), address, "neighbours that were dropped are one hole again");
    assert_eq!((arena.resident(), arena.most_in_use()), (10 * GRAIN, 10 * GRAIN));
    drop(whole);
    arena.release();
    assert_eq!(arena.resident(), 0);
}

#[test]
fn holes_that_nothing_fits_into_hardly_add_to_the_peak() {
    let arena = Arena::default();
    let (a, b) = (take(&arena, 40), take(&arena, 40));
    drop(a);
    // Does not fit into the hole, so the hole's pages make room.
    let c = take(&arena, 60);
    assert_eq!(arena.most_in_use(), 100 * GRAIN);
    assert!(arena.resident() <= 106 * GRAIN, "{} MiB", arena.resident() >> 20);
    drop((b, c));
}

#[test]
fn a_shrunk_buffer_leaves_its_tail_to_others() {
    let arena = Arena::default();
    let mut a = take(&arena, 8);
    a.shrink(3 * GRAIN - 5);
    let b = take(&arena, 5);
    assert_eq!(b.ptr(), a.ptr().wrapping_add(3 * GRAIN));
    assert_eq!(arena.resident(), 8 * GRAIN);
}

#[test]
#[cfg(debug_assertions)]
fn debug_builds_see_reads_of_nothing_and_writes_past_the_end() {
    let arena = Arena::default();
    // Whatever the memory held before.
    for _ in 0..2 {
        let buffer = take(&arena, 1);
        // SAFETY: the buffer is that long, and poisoned.
        assert!(unsafe { buffer.ptr().cast::<f32>().read() }.is_nan());
        // SAFETY: as above.
        unsafe { buffer.ptr().cast::<f32>().write(1.0) };
    }
    let mut buffer = arena.take(100).expect("memory");
    assert!(buffer.is_intact_behind());
    // SAFETY: a buffer has a whole grain; the byte is one that nobody asked for.
    unsafe { buffer.ptr().add(100).write(0) };
    assert!(!buffer.is_intact_behind());
    buffer.asked = 101;
    assert!(buffer.is_intact_behind());
}

#[test]
fn more_than_there_is_is_an_error() {
    let arena = Arena::default();
    assert_eq!(arena.take(usize::MAX / 2).err(), Some(OutOfMemory(usize::MAX / 2)));
    assert!(arena.take(1).is_ok());
}
