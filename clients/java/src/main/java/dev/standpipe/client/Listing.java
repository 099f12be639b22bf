package dev.standpipe.client;

import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.function.Supplier;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;

/**
 * Rows that the server lists page by page. Each iteration asks anew, one page ahead of what is read at most, and may
 * throw what any call may throw.
 *
 * @param <T> a row
 */
public final class Listing<T> implements Iterable<T> {
  private final Supplier<Page<T>> first;

  /** Rows, and how to ask for more; null at the end. */
  record Page<T>(List<T> rows, Supplier<Page<T>> next) {}

  Listing(Supplier<Page<T>> first) {
    this.first = first;
  }

  /** Returns an iterator from the first row on. */
  @Override
  public Iterator<T> iterator() {
    return new Iterator<>() {
      private Iterator<T> rows = List.<T>of().iterator();
      private Supplier<Page<T>> next = first;

      @Override
      public boolean hasNext() {
        while (!rows.hasNext() && next != null) {
          Page<T> page = next.get();
          rows = page.rows.iterator();
          next = page.next;
        }
        return rows.hasNext();
      }

      @Override
      public T next() {
        if (!hasNext()) {
          throw new NoSuchElementException();
        }
        return rows.next();
      }
    };
  }

  /**
   * Returns a stream from the first row on.
   *
   * @return a sequential stream, which need not be closed
   */
  public Stream<T> stream() {
    return StreamSupport.stream(spliterator(), false);
  }
}
