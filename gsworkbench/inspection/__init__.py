"""What `gsworkbench inspect` looks at: findings about particles, pictures and tables of them."""
