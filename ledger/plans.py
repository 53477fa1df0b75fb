"""Plans: whatever is asked of some accounts is led by their index, whatever Postgres guesses.

It takes the policy of row-level security for a filter that leaves one row in two hundred, and so, of a page of a
thousand accounts, would rather read and sort a whole table: at a million accounts each page cost a second.
"""

from sqlalchemy import Connection, text

_led_by_index = text(
    """
    SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
           set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
           set_config('enable_sort', 'off', true), set_config('enable_incremental_sort', 'off', true),
           set_config('max_parallel_workers_per_gather', '0', true), set_config('jit', 'off', true)
    """
)


def led_by_index(connection: Connection) -> None:
    """For the rest of the transaction. What can be had in no other way is still sorted, joined or scanned."""
    connection.execute(_led_by_index)
