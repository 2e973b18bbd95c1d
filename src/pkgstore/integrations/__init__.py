"""What embeds pkgstore in other software."""
