"""From a pool to shards: reading pools, choosing rows, fetching images, writing webdatasets. The only home of Beam."""
