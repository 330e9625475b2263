"""From whatever holds labelled rows (folder, file, saved or Hub set, objects) to checked splits of one shape."""
