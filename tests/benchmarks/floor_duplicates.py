"""The least that tells how many rows stay of those with the same caption: DuckDB in one process, all in memory.

    python floor_duplicates.py POOL THREADS
"""

import sys

import duckdb


def main(pool: str, threads: int) -> None:
    database = duckdb.connect(config={"threads": threads})
    first = f"select min(uid) as uid from read_parquet('{pool}/*.parquet') group by text"
    print(database.execute(f"select count(uid) from ({first})").fetchone()[0])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
