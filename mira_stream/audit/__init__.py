"""What a user asks about a lake: is anything lost or doubled?"""
