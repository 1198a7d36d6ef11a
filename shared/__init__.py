"""What more than one service needs: nouns, wire, database, engines, vision, verdict."""
