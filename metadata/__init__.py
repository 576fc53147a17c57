"""What is known about pairs without their images: columns, uids, entry lists, errors. Imports nothing of ours."""
