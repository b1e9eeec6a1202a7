-- The roles of docs/operations.md with passwords from the secrets. The image of PostgreSQL runs this file with psql, as
-- the superuser, when its volume is empty; on a volume with data run it by hand (docs/deployment.md).
\set owner_password `cat /run/secrets/postgres_owner_password`
\set app_password `cat /run/secrets/postgres_app_password`
\set auditor_password `cat /run/secrets/postgres_auditor_password`
CREATE ROLE driftback_owner LOGIN;
CREATE ROLE driftback_app LOGIN;
CREATE ROLE driftback_auditor LOGIN;
CREATE DATABASE driftback OWNER driftback_owner;
REVOKE ALL ON DATABASE driftback FROM PUBLIC;
GRANT CONNECT ON DATABASE driftback TO driftback_app, driftback_auditor;
\connect driftback
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
ALTER ROLE driftback_owner PASSWORD :'owner_password';
ALTER ROLE driftback_app PASSWORD :'app_password';
ALTER ROLE driftback_auditor PASSWORD :'auditor_password';
