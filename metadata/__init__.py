"""What is known about pairs without their images: columns, uids, and the errors users see. Imports nothing of ours."""
