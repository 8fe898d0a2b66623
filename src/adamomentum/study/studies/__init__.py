"""Study files that come with the library; ``adamomentum study run NAME`` runs one."""
